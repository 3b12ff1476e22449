//! What `doctor` says about one thing.

use std::fmt;

use serde::Serialize;

/// How well off the machine is in one respect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As good as it gets.
    Ok,
    /// Works, but slower or with less.
    Weaker,
    /// Does not work.
    Missing,
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was looked at, in a word or two.
    pub topic: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do about it; empty when there is nothing to do.
    pub remedy: String,
}

impl Line {
    /// All is well.
    pub fn ok(topic: &'static str, found: impl Into<String>) -> Line {
        Line { topic, state: State::Ok, found: found.into(), remedy: String::new() }
    }

    /// It works less well than it could.
    pub fn weaker(
        topic: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Line {
        Line { topic, state: State::Weaker, found: found.into(), remedy: remedy.into() }
    }

    /// It does not work.
    pub fn missing(
        topic: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Line {
        Line { topic, state: State::Missing, found: found.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Ok => "ok",
            State::Weaker => "weaker",
            State::Missing => "missing",
        })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8} {:<18} {}", self.state, self.topic, self.found)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "\n{:27} -> {}", "", self.remedy) }
    }
}

/// The worst of all lines, which is the verdict.
pub fn verdict(lines: &[Line]) -> State {
    lines.iter().map(|line| line.state).max().unwrap_or(State::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_shows_the_remedy_only_when_there_is_one() {
        let ok = Line::ok("kernel", "Linux 6.18");
        assert_eq!(ok.to_string(), "ok       kernel             Linux 6.18");
        let missing = Line::missing("/dev/fuse", "not there", "modprobe fuse");
        assert_eq!(
            missing.to_string(),
            "missing  /dev/fuse          not there\n                            -> modprobe fuse"
        );
    }

    #[test]
    fn verdict_is_the_worst_line() {
        let lines = [Line::ok("a", ""), Line::missing("b", "", ""), Line::weaker("c", "", "")];
        assert_eq!(verdict(&lines), State::Missing);
        assert_eq!(verdict(&lines[..1]), State::Ok);
        assert_eq!(verdict(&[]), State::Ok);
    }

    #[test]
    fn json_has_lower_case_states() {
        let json = serde_json::to_value(Line::weaker("a", "b", "c")).unwrap();
        assert_eq!(json["state"], "weaker");
    }
}
