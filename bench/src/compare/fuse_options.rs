//! How the daemon asks the kernel to read, taken from its own defaults, so that the null server asks the same way.

use tenderfs_fuse::{ReadDirPlus, TransportKind, Wish};
use toml::{Table, Value};

/// The home of all defaults.
const DEFAULTS: &str = include_str!("../../../configs/default.toml");

/// What the daemon wishes of the kernel when its configuration says nothing.
pub(crate) fn default_wish() -> Wish {
    let defaults: Table = DEFAULTS
        .parse()
        .unwrap_or_else(|error| unreachable!("the daemon is compiled with this file: {error}"));
    let number = |key: &str| match &defaults["fuse"][key] {
        Value::String(text) => parse_size::Config::new().with_binary().parse_size(text).ok(),
        value => value.as_integer().and_then(|number| u64::try_from(number).ok()),
    };
    let small = |key| number(key).and_then(|number| u16::try_from(number).ok()).unwrap_or(64);
    let large = |key| number(key).and_then(|number| u32::try_from(number).ok()).unwrap_or(1 << 20);
    Wish {
        request_bytes_max: large("request_max"),
        read_ahead_bytes: large("read_ahead"),
        max_background: small("max_background"),
        congestion_threshold: small("congestion_threshold"),
        readdirplus: ReadDirPlus::Auto,
        transport: TransportKind::Device,
        passthrough: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_of_the_daemon_are_understood() {
        let wish = default_wish();
        let fuse = &DEFAULTS.parse::<Table>().unwrap()["fuse"];
        assert_eq!(Some(i64::from(wish.max_background)), fuse["max_background"].as_integer());
        let text = fuse["request_max"].as_str().unwrap();
        assert_eq!(text, format!("{}M", wish.request_bytes_max >> 20), "sizes are binary");
    }
}
