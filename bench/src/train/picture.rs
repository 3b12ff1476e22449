//! A run as a picture: how busy the accelerator was over time on each side, and which tier the mount's bytes came from.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use super::epoch::Epoch;
use super::report::TrainReport;
use super::sides::TIERS;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 420.0;
/// Where curves are drawn.
const LEFT: f64 = 60.0;
const RIGHT: f64 = 880.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 300.0;
/// Where the tiers are drawn.
const TIERS_TOP: f64 = 360.0;
const TIERS_BOTTOM: f64 = 385.0;
/// Points of the longest curve.
const BINS: u32 = 90;
const TIER_COLOURS: [&str; 3] = ["#4c9f70", "#e0a030", "#c0504d"];

/// The picture as SVG.
pub(super) fn svg(report: &TrainReport) -> String {
    let sides = [
        ("control: local disk", "#999999", &report.control),
        ("oracle: no file system", "#b080d0", &report.oracle),
        ("mount", "#1f5fbf", &report.mounted.epochs),
    ];
    let end = sides.iter().map(|(_, _, epochs)| length(epochs)).max().unwrap_or_default();
    let end = end.max(Duration::from_nanos(1));
    let mut drawn = String::new();
    frame(&mut drawn, &report.title(), end);
    for (number, (name, colour, epochs)) in (0_u32..).zip(sides) {
        let points = busy(epochs, end / BINS);
        let mut path = String::new();
        for (bin, part) in (0_u32..).zip(&points) {
            let x = LEFT + (RIGHT - LEFT) * (f64::from(bin) + 0.5) / f64::from(BINS);
            put(&mut path, format_args!("{x:.1},{:.1} ", BOTTOM - (BOTTOM - TOP) * part));
        }
        put(
            &mut drawn,
            format_args!(
                "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n"
            ),
        );
        legend(&mut drawn, (LEFT + 170.0 * f64::from(number), 328.0), name, colour);
    }
    tiers(&mut drawn, report, end);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{drawn}</svg>\n"
    )
}

fn frame(drawn: &mut String, title: &str, end: Duration) {
    text(drawn, (LEFT, 25.0), &format!("Utilisation: {title}"));
    for percent in [0_u32, 25, 50, 75, 100] {
        let y = BOTTOM - (BOTTOM - TOP) * f64::from(percent) / 100.0;
        put(drawn, format_args!("<path d=\"M{LEFT} {y}H{RIGHT}\" stroke=\"#dddddd\"/>\n"));
        text(drawn, (LEFT - 45.0, y + 4.0), &format!("{percent} %"));
    }
    text(drawn, (RIGHT - 60.0, BOTTOM + 14.0), &format!("{:.1} s", end.as_secs_f64()));
}

/// A bar for each of the mount's epochs, below its time.
fn tiers(drawn: &mut String, report: &TrainReport, end: Duration) {
    let x_of = |time: Duration| LEFT + (RIGHT - LEFT) * time.as_secs_f64() / end.as_secs_f64();
    let mut start = Duration::ZERO;
    for (epoch, bytes) in report.mounted.epochs.iter().zip(&report.mounted.tiers) {
        let stop = start + length(std::slice::from_ref(epoch));
        let (left, right, all) = (x_of(start), x_of(stop), bytes.iter().sum::<f64>());
        put(
            drawn,
            format_args!(
                "<path d=\"M{right:.1} {TOP}V{TIERS_BOTTOM}\" stroke=\"#1f5fbf\" stroke-dasharray=\"3\"/>\n"
            ),
        );
        let mut from = left;
        for (part, colour) in bytes.map(|bytes| bytes / all.max(1.0)).into_iter().zip(TIER_COLOURS)
        {
            let (width, height) = ((right - left) * part, TIERS_BOTTOM - TIERS_TOP);
            put(
                drawn,
                format_args!(
                    "<rect x=\"{from:.1}\" y=\"{TIERS_TOP}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\"/>\n"
                ),
            );
            from += width;
        }
        start = stop;
    }
    text(
        drawn,
        (LEFT, TIERS_TOP - 8.0),
        "Bytes handed out by the daemon, by the slowest tier they waited for",
    );
    for (number, (tier, colour)) in (0_u32..).zip(TIERS.into_iter().zip(TIER_COLOURS)) {
        legend(drawn, (LEFT + 100.0 * f64::from(number), HEIGHT - 14.0), tier, colour);
    }
}

fn legend(drawn: &mut String, (x, y): (f64, f64), name: &str, colour: &str) {
    let top = y - 9.0;
    put(
        drawn,
        format_args!(
            "<rect x=\"{x}\" y=\"{top}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\n"
        ),
    );
    text(drawn, (x + 15.0, y), name);
}

fn text(drawn: &mut String, (x, y): (f64, f64), words: &str) {
    put(drawn, format_args!("<text x=\"{x}\" y=\"{y}\">{words}</text>\n"));
}

fn put(drawn: &mut String, what: std::fmt::Arguments<'_>) {
    drawn.write_fmt(what).unwrap_or_else(|error| unreachable!("a string takes any text: {error}"));
}

fn length(epochs: &[Epoch]) -> Duration {
    epochs.iter().filter_map(|epoch| Some(epoch.steps.last()?.done)).sum()
}

/// The part of each stretch of time in which something was computed, epochs one behind the other.
fn busy(epochs: &[Epoch], bin: Duration) -> Vec<f64> {
    let mut computed: Vec<Range<Duration>> = Vec::new();
    let mut start = Duration::ZERO;
    for epoch in epochs {
        computed.extend(epoch.steps.iter().map(|step| start + step.ready..start + step.done));
        start += length(std::slice::from_ref(epoch));
    }
    let mut parts = Vec::new();
    let mut from = Duration::ZERO;
    while from < start && bin > Duration::ZERO {
        let to = start.min(from + bin);
        let within =
            |range: &Range<Duration>| range.end.min(to).saturating_sub(range.start.max(from));
        let time: Duration = computed.iter().map(within).sum();
        parts.push(time.as_secs_f64() / to.saturating_sub(from).as_secs_f64());
        from = to;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::epoch::Step;

    #[test]
    fn a_stretch_is_as_busy_as_its_compute_whichever_epoch_it_lies_in() {
        let step = |asked: u64, ready: u64, done: u64| {
            let [asked, ready, done] = [asked, ready, done].map(Duration::from_millis);
            Step { asked, ready, done }
        };
        let epoch = |steps| Epoch { steps, checkpoint: None };
        let epochs =
            [epoch(vec![step(0, 100, 200)]), epoch(vec![step(0, 0, 50), step(50, 75, 100)])];
        let parts = busy(&epochs, Duration::from_millis(100));
        let expected = [0.0, 1.0, 0.75];
        assert_eq!(parts.len(), expected.len());
        for (part, expected) in parts.iter().zip(expected) {
            assert!((part - expected).abs() < 1e-9, "{parts:?}");
        }
    }
}
