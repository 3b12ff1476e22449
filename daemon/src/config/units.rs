//! Sizes, durations, modes and switches as people write them.
//!
//! Everything here is pure: text in, number out, `None` if the text is not one. Messages are made
//! by the caller, who knows the option and where it was written.

use std::time::Duration;

/// Parses a size in bytes.
///
/// `K M G T` and `KiB MiB GiB TiB` are powers of 1024, as in the field (`--cache-size 16G`);
/// `KB MB GB TB` are powers of 1000; a bare number is bytes. Case and blanks before the unit do
/// not matter, a fraction is allowed (`1.5G`) and rounds down.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        "t" | "ti" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    scale(number, factor)
}

/// Parses a duration: a number and `us`, `ms`, `s`, `m` (or `min`), `h` or `d`. A bare number is
/// seconds, as `--metadata-ttl 60` of other file systems means it.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let factor_ns: u64 = match unit.to_ascii_lowercase().as_str() {
        "us" => 1_000,
        "ms" => 1_000_000,
        "" | "s" | "sec" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        _ => return None,
    };
    scale(number, factor_ns).map(Duration::from_nanos)
}

/// Parses permission bits in octal: `644`, `0644` or `0o644`.
pub fn parse_mode(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    if digits.starts_with('+') {
        return None;
    }
    u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o7777)
}

/// Parses a switch: `true`, `yes`, `on`, `1` and their opposites.
pub fn parse_flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// A size for people: `1.5 GiB`, `64 KiB`, `17 bytes`.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (name, unit) in UNITS {
        if bytes >= unit {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            return match tenths % 10 {
                0 => format!("{} {name}", tenths / 10),
                tenth => format!("{}.{tenth} {name}", tenths / 10),
            };
        }
    }
    format!("{bytes} bytes")
}

/// The number and the unit after it; `None` if there is no number.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (!number.is_empty()).then_some((number, unit.trim_start()))
}

/// `number` (decimal, at most one point) times `factor`, rounded down; `None` if it is no number
/// or more than a `u64`.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let parts = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let scaled = whole.parse::<u64>().ok().map(u128::from)? * parts
        + fraction.parse::<u64>().ok().map(u128::from)?;
    u64::try_from(scaled * u128::from(factor) / parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves V13's suffixes.
    #[test]
    fn sizes_are_read_as_the_field_writes_them() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("16G", Some(16 << 30)),
            ("16GiB", Some(16 << 30)),
            ("16 gib", Some(16 << 30)),
            ("500GB", Some(500_000_000_000)),
            ("1.5K", Some(1536)),
            ("2t", Some(2 << 40)),
            ("64k", Some(65_536)),
            ("1b", Some(1)),
            ("", None),
            ("G", None),
            ("1.2.3G", None),
            (".5G", None),
            ("5.G", None),
            ("-1", None),
            ("16X", None),
            ("16777216T", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn durations_have_units_and_bare_numbers_are_seconds() {
        for (text, duration) in [
            ("500ms", Some(Duration::from_millis(500))),
            ("60s", Some(Duration::from_mins(1))),
            ("60", Some(Duration::from_mins(1))),
            ("0", Some(Duration::ZERO)),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("5m", Some(Duration::from_mins(5))),
            ("1h", Some(Duration::from_hours(1))),
            ("1d", Some(Duration::from_hours(24))),
            ("250us", Some(Duration::from_micros(250))),
            ("5 fortnights", None),
            ("", None),
            ("-1s", None),
        ] {
            assert_eq!(parse_duration(text), duration, "{text:?}");
        }
    }

    #[test]
    fn modes_are_octal_however_they_are_written() {
        for (text, mode) in [
            ("644", Some(0o644)),
            ("0644", Some(0o644)),
            ("0o755", Some(0o755)),
            ("888", None),
            ("+644", None),
            ("77777", None),
            ("", None),
        ] {
            assert_eq!(parse_mode(text), mode, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_printed_short() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1 << 20, "1 MiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
    }
}
