//! The settings file of a state directory.

use super::config::EngineConfig;
use crate::codec::{self, Kind};
use crate::error::{Error, Result};
use crate::store::atomic;
use std::path::Path;

/// Envelope of the settings file of a state directory.
const CONFIG_KIND: Kind = Kind {
    tag: *b"CONF",
    version: 2,
};
const CONFIG_FILE: &str = "config.sona";

/// Settings of the engine that wrote a state directory; `None` if there is none yet.
pub fn read_config(root: &Path) -> Result<Option<EngineConfig>> {
    let path = root.join(CONFIG_FILE);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let (case_half_life_days, config) = codec::decode_with::<f64, EngineConfig>(CONFIG_KIND, &bytes)?;
            Ok(Some(EngineConfig {
                case_half_life_days,
                ..config
            }))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::store("read", path, e)),
    }
}

/// Refuses a directory that another dimension or embedder wrote, and notes the settings in use.
pub(super) fn claim_config(root: &Path, config: &EngineConfig) -> Result<()> {
    let known = match read_config(root) {
        Ok(known) => known,
        // Damaged settings lose nothing: the caller brings its own.
        Err(Error::Corrupt { .. }) => None,
        Err(e) => return Err(e),
    };
    if let Some(known) = &known {
        known.check_compatible(config)?;
    }
    if known.as_ref() == Some(config) {
        return Ok(());
    }
    let path = root.join(CONFIG_FILE);
    let bytes = codec::encode_with(CONFIG_KIND, config.case_half_life_days, config)?;
    atomic::replace(&path, |w| {
        w.write_all(&bytes).map_err(|e| Error::store("write", &path, e))
    })
}
