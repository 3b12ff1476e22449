//! What was written, where, before anyone asks what it means.
//!
//! A [`Layer`] is one source of options: the defaults, a file, the environment or the command line.
//! Layers are laid over each other by name, and every value keeps its [`Origin`], so that an error
//! about it can name the place, however late it is found.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};
use toml::{Spanned, de::DeString};

use super::error::{ConfigError, Origin, nearest};
use super::options::{
    DEFAULT_TOML, Kind, ONLY_IN_A_MOUNT, OPTIONS, Spec, environment_name, find, flat_name,
};

/// A value as text, and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// Values by option name.
pub(super) type Values = BTreeMap<&'static str, Written>;

/// What one `[[mount]]` says, and where it stands.
#[derive(Debug, Clone)]
pub(super) struct WrittenMount {
    pub(super) values: Values,
    pub(super) origin: Origin,
}

/// One source of options. Values of `mount.*` in `options` are those of `[mount_defaults]`.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    pub(super) options: Values,
    pub(super) mounts: Vec<WrittenMount>,
}

impl Layer {
    /// Lays `upper` over this one: its values win, its mounts are added.
    pub(super) fn lay_over(&mut self, upper: Layer) {
        self.options.extend(upper.options);
        self.mounts.extend(upper.mounts);
    }
}

/// `configs/default.toml` as it is compiled in.
pub(super) fn defaults() -> Result<Layer, ConfigError> {
    let mut layer = parse_file(DEFAULT_TOML, Path::new("configs/default.toml"))?;
    for written in layer.options.values_mut() {
        written.origin = Origin::Default;
    }
    Ok(layer)
}

/// AWS's own variables, which say something about every mount unless the configuration does.
pub(super) fn aws_environment(environment: &dyn Fn(&str) -> Option<String>) -> Layer {
    const VARIABLES: &[(&str, &str)] = &[
        ("AWS_DEFAULT_REGION", "mount.region"),
        ("AWS_REGION", "mount.region"),
        ("AWS_ENDPOINT_URL", "mount.endpoint_url"),
        ("AWS_ENDPOINT_URL_S3", "mount.endpoint_url"),
        ("AWS_CA_BUNDLE", "mount.ca_bundle"),
        ("AWS_MAX_ATTEMPTS", "s3.attempts_max"),
    ];
    let mut layer = Layer::default();
    for (variable, option) in VARIABLES {
        if let Some(text) = environment(variable).filter(|text| !text.is_empty()) {
            let origin = Origin::Environment((*variable).to_owned());
            layer.options.insert(option, Written { text, origin });
        }
    }
    layer
}

/// The `TENDERFS_*` variables.
pub(super) fn environment(environment: &dyn Fn(&str) -> Option<String>) -> Layer {
    let mut layer = Layer::default();
    let log = ("log.level", "TENDERFS_LOG".to_owned());
    let named = OPTIONS.iter().filter_map(|spec| Some((spec.name, environment_name(spec.name)?)));
    for (option, variable) in std::iter::once(log).chain(named) {
        if let Some(text) = environment(&variable) {
            layer.options.insert(option, Written { text, origin: Origin::Environment(variable) });
        }
    }
    layer
}

/// Reads the text of a configuration file.
pub(super) fn parse_file(text: &str, path: &Path) -> Result<Layer, ConfigError> {
    let file = File { text, path };
    let document = DeTable::parse(text).map_err(|error| file.syntax(&error))?;
    let mut layer = Layer::default();
    for (section, content) in document.get_ref() {
        match (section.get_ref().as_ref(), content.get_ref()) {
            ("mount", DeValue::Array(mounts)) => {
                for mount in mounts {
                    layer.mounts.push(file.mount(mount)?);
                }
            }
            ("mount_defaults", DeValue::Table(table)) => {
                let values = file.section("mount", table)?;
                check_shared(&values)?;
                layer.options.extend(values);
            }
            (name, DeValue::Table(table)) if name != "mount" => {
                layer.options.extend(file.section(name, table)?);
            }
            (name, _) => return Err(unknown(file.origin(section), name)),
        }
    }
    Ok(layer)
}

/// The one option that has another name in a file: who thinks of a bucket and a prefix finds both.
const OTHER_NAME: (&str, &str) = ("mount.bucket", "mount.source");

/// A file while it is read.
struct File<'a> {
    text: &'a str,
    path: &'a Path,
}

impl File<'_> {
    fn origin<T>(&self, place: &Spanned<T>) -> Origin {
        self.origin_at(place.span().start)
    }

    fn origin_at(&self, offset: usize) -> Origin {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        Origin::File { path: self.path.to_owned(), line }
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let origin = self.origin_at(error.span().map_or(0, |span| span.start));
        let reason = error.message().lines().collect::<Vec<_>>().join(", ");
        ConfigError::Syntax { origin, reason }
    }

    fn mount(&self, mount: &Spanned<DeValue<'_>>) -> Result<WrittenMount, ConfigError> {
        let origin = self.origin(mount);
        match mount.get_ref() {
            DeValue::Table(table) => {
                Ok(WrittenMount { values: self.section("mount", table)?, origin })
            }
            _ => Err(unknown(origin, "mount")),
        }
    }

    /// The values under one section, each a known option.
    fn section(&self, section: &str, table: &DeTable<'_>) -> Result<Values, ConfigError> {
        if !OPTIONS.iter().any(|spec| spec.name.split_once('.').is_some_and(|(s, _)| s == section))
        {
            let origin = table.keys().next().map_or_else(|| self.origin_at(0), |k| self.origin(k));
            return Err(unknown_section(origin, section));
        }
        let mut values = Values::new();
        for (key, value) in table {
            let (name, written) = self.value(section, key, value)?;
            let origin = written.origin.clone();
            if values.insert(name, written).is_some() {
                return Err(ConfigError::Exclusive { origin, name, other: OTHER_NAME.0 });
            }
        }
        Ok(values)
    }

    fn value(
        &self,
        section: &str,
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(&'static str, Written), ConfigError> {
        let origin = self.origin(key);
        let name = format!("{section}.{}", key.get_ref());
        let known = if name == OTHER_NAME.0 { OTHER_NAME.1 } else { &name };
        let Some(spec) = find(known) else {
            return Err(unknown(origin, &name));
        };
        match value_text(spec, value.get_ref()) {
            Some(text) => Ok((spec.name, Written { text, origin })),
            None => Err(ConfigError::BadValue {
                origin,
                name: spec.name,
                value: self.text.get(value.span()).unwrap_or_default().to_owned(),
                expected: spec.kind.to_string(),
            }),
        }
    }
}

/// Refuses in `[mount_defaults]` what differs for every mount.
fn check_shared(values: &Values) -> Result<(), ConfigError> {
    match values.iter().find(|(name, _)| ONLY_IN_A_MOUNT.contains(*name)) {
        Some((name, written)) => {
            Err(ConfigError::OnlyInAMount { origin: written.origin.clone(), name })
        }
        None => Ok(()),
    }
}

/// A TOML value as text; `None` if its type cannot be what the option accepts.
fn value_text(spec: &Spec, value: &DeValue<'_>) -> Option<String> {
    match (value, spec.kind) {
        (DeValue::String(text), _) => Some(text.to_string()),
        (DeValue::Boolean(flag), Kind::Flag) => Some(flag.to_string()),
        (DeValue::Integer(number), Kind::Mode) => match number.radix() {
            8 | 10 => Some(number.as_str().to_owned()),
            _ => None,
        },
        (
            DeValue::Integer(number),
            Kind::Count { .. }
            | Kind::CountOrAuto { .. }
            | Kind::Bytes
            | Kind::BytesOrAuto
            | Kind::Duration
            | Kind::Ratio,
        ) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n.to_string()),
        (DeValue::Float(number), Kind::Ratio | Kind::Duration) => Some(number.as_str().to_owned()),
        _ => None,
    }
}

/// The option of this dotted name, or an error with the nearest known one.
pub(super) fn find_option(name: &str, origin: &Origin) -> Result<&'static Spec, ConfigError> {
    find(name).ok_or_else(|| unknown(origin.clone(), name))
}

/// The option of this flat name (`cache_size`, `region`), however its words are joined.
pub(super) fn find_flat(name: &str) -> Option<&'static Spec> {
    let name = name.replace('-', "_");
    OPTIONS.iter().find(|spec| flat_name(spec.name) == name)
}

fn unknown(origin: Origin, name: &str) -> ConfigError {
    let found = nearest(name, OPTIONS.iter().map(|spec| spec.name)).map(str::to_owned);
    ConfigError::UnknownOption { origin, name: name.to_owned(), nearest: found }
}

fn unknown_section(origin: Origin, section: &str) -> ConfigError {
    const SECTIONS: [&str; 11] = [
        "daemon",
        "log",
        "memory",
        "cache",
        "read_ahead",
        "plans",
        "s3",
        "fuse",
        "warm",
        "mount",
        "mount_defaults",
    ];
    let found = nearest(section, SECTIONS).map(|name| format!("[{name}]"));
    ConfigError::UnknownOption { origin, name: format!("[{section}]"), nearest: found }
}
