//! What a command line says: flags and mount options, laid over file and environment.

use std::path::Path;

use super::error::{ConfigError, Origin};
use super::layers::{Layer, Values, Written, WrittenMount, find_option};

/// Values given on a command line, each with the flag that gave it.
///
/// With [`Overrides::with_mount`] the command line itself describes a mount, and `mount.*` values
/// are that mount's; without, they are defaults for the mounts of the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    options: Values,
    mount: Option<WrittenMount>,
}

impl Overrides {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Those of `tenderfs mount SOURCE MOUNTPOINT`.
    pub fn with_mount(source: &str, mountpoint: &Path) -> Self {
        let written = |text: String| Written { origin: Origin::CommandLine(text.clone()), text };
        let values = Values::from([
            ("mount.source", written(source.to_owned())),
            ("mount.mountpoint", written(mountpoint.to_string_lossy().into_owned())),
        ]);
        let origin = Origin::CommandLine("mount".to_owned());
        Self { options: Values::new(), mount: Some(WrittenMount { values, origin }) }
    }

    /// Sets the option of this dotted name (`cache.size`, `mount.region`). `flag` is what the user
    /// typed (`--cache-size`, `-o region`), for error messages. The value is checked on loading.
    pub fn set(&mut self, name: &str, value: &str, flag: &str) -> Result<(), ConfigError> {
        let origin = Origin::CommandLine(flag.to_owned());
        let spec = find_option(name, &origin)?;
        let values = match &mut self.mount {
            Some(mount) if spec.name.starts_with("mount.") => &mut mount.values,
            _ => &mut self.options,
        };
        values.insert(spec.name, Written { text: value.to_owned(), origin });
        Ok(())
    }

    /// Whether the command line describes a mount.
    pub(super) fn describes_a_mount(&self) -> bool {
        self.mount.is_some()
    }

    pub(super) fn into_layer(self) -> Layer {
        Layer { options: self.options, mounts: self.mount.into_iter().collect() }
    }
}
