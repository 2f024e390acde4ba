//! What is kept on disk for an adapter: measured choices and the driver's compiled pipelines. Files are written whole
//! and renamed into place; a file that is broken or of another driver or version is ignored with a word.

use crate::files::write_whole;
use crate::kernels::{ALL, Precision};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Names another folder for the files; empty switches them off.
const FOLDER: &str = "ANCESTRAL_CACHE_DIR";

/// An adapter's files.
pub(super) struct Cache {
    folder: Option<PathBuf>,
    identity: Identity,
    choices: Mutex<Option<BTreeMap<String, String>>>,
}

/// What the files were made for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Identity {
    adapter: String,
    driver: String,
    /// Version of the engine, a hash of its shaders, and [`METHOD`].
    engine: String,
}

#[derive(Serialize, Deserialize)]
struct TuningFile {
    #[serde(flatten)]
    identity: Identity,
    choices: BTreeMap<String, String>,
}

/// How choices are measured: those that were made by another way are not taken.
const METHOD: u32 = 2;

/// FNV-1a
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// Begins a file of compiled pipelines; a checksum of what follows it comes next.
const PIPELINES: &[u8; 24] = b"ancestral pipelines, 1\r\n";

impl Cache {
    pub(super) fn new(info: &wgpu::AdapterInfo) -> Cache {
        let folder = match std::env::var_os(FOLDER) {
            Some(folder) if folder.is_empty() => None,
            Some(folder) => Some(PathBuf::from(folder)),
            None => dirs::cache_dir().map(|d| d.join("ancestral")),
        };
        let shaders =
            ALL.iter().flat_map(|k| k.shaders).map(|s| s.source(Precision::F32)).collect::<String>();
        let identity = Identity {
            adapter: format!("{} ({:?})", info.name, info.backend),
            driver: format!("{} {}", info.driver, info.driver_info),
            engine: format!("{} {:016x} {METHOD}", env!("CARGO_PKG_VERSION"), hash(shaders.as_bytes())),
        };
        Cache { folder, identity, choices: Mutex::default() }
    }

    /// The file of a kind: one for each adapter and driver, so that two cards of a machine do not fight over it.
    fn path(&self, kind: &str) -> Option<PathBuf> {
        let name = format!(
            "{kind}-{:016x}",
            hash(format!("{}{}", self.identity.adapter, self.identity.driver).as_bytes())
        );
        Some(self.folder.as_ref()?.join(name))
    }

    /// Where the choices are kept, if anywhere.
    pub(super) fn tuning_path(&self) -> Option<PathBuf> {
        Some(self.path("tuning")?.with_extension("json"))
    }

    fn lock(&self) -> MutexGuard<'_, Option<BTreeMap<String, String>>> {
        self.choices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The variant kept under `key`.
    pub(super) fn choice(&self, key: &str) -> Option<String> {
        self.lock().get_or_insert_with(|| self.load_choices()).get(key).cloned()
    }

    pub(super) fn set_choice(&self, key: &str, variant: &str) {
        self.lock().get_or_insert_default().insert(key.to_string(), variant.to_string());
    }

    /// Forgets what was measured, so that it is measured anew.
    pub(super) fn clear_choices(&self) {
        *self.lock() = Some(BTreeMap::new());
        if let Some(path) = self.tuning_path() {
            let _ = std::fs::remove_file(path);
        }
    }

    /// The file's choices, or why they are not taken.
    fn read_choices(&self, path: &Path) -> Result<BTreeMap<String, String>, String> {
        let Ok(text) = std::fs::read_to_string(path) else { return Ok(BTreeMap::new()) };
        match serde_json::from_str::<TuningFile>(&text) {
            Ok(file) if file.identity == self.identity => Ok(file.choices),
            Ok(_) => Err("is of another version".into()),
            Err(error) => Err(format!("is not a tuning file ({error})")),
        }
    }

    fn load_choices(&self) -> BTreeMap<String, String> {
        let Some(path) = self.tuning_path() else { return BTreeMap::new() };
        self.read_choices(&path).unwrap_or_else(|why| {
            log::warn!("{} {why}: tuning anew", path.display());
            BTreeMap::new()
        })
    }

    /// Writes the choices, with those another process wrote meanwhile.
    pub(super) fn save_choices(&self) {
        let Some(path) = self.tuning_path() else { return };
        let mut choices = self.read_choices(&path).unwrap_or_default();
        choices.extend(self.lock().clone().unwrap_or_default());
        let file = TuningFile { identity: self.identity.clone(), choices };
        if let Ok(text) = serde_json::to_string_pretty(&file) {
            write(&path, text.as_bytes());
        }
    }

    /// The driver's compiled pipelines of an earlier run: drivers take their own bytes on trust, so that a file that is not
    /// bit for bit what was written is no use.
    pub(super) fn pipelines(&self) -> Option<Vec<u8>> {
        let path = self.path("pipelines")?;
        let mut file = std::fs::read(&path).ok()?;
        let sum = file.strip_prefix(PIPELINES).and_then(<[u8]>::split_first_chunk);
        if sum.is_none_or(|(sum, data)| u64::from_le_bytes(*sum) != hash(data)) {
            log::warn!("{} is not what was written: its shaders are compiled anew", path.display());
            return None;
        }
        Some(file.split_off(PIPELINES.len() + size_of::<u64>()))
    }

    pub(super) fn save_pipelines(&self, data: &[u8]) {
        if let Some(path) = self.path("pipelines") {
            write(&path, &[PIPELINES, &hash(data).to_le_bytes()[..], data].concat());
        }
    }
}

/// Writes a file whole, or leaves what was there; a cache that cannot be written is no error.
fn write(path: &Path, data: &[u8]) {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    if let Err(error) = folder.and_then(|()| write_whole(path, data)) {
        log::info!("{} is not kept: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipelines_are_taken_as_they_were_written_or_not_at_all() {
        let folder = std::env::temp_dir().join(format!("ancestral-cache-{}", std::process::id()));
        let cache =
            Cache { folder: Some(folder.clone()), identity: Identity::default(), choices: Mutex::default() };
        let path = cache.path("pipelines").unwrap();
        assert_eq!(cache.pipelines(), None);
        let data: Vec<u8> = (0..=255).cycle().take(5000).collect();
        cache.save_pipelines(&data);
        assert_eq!(cache.pipelines(), Some(data.clone()));
        let whole = std::fs::read(&path).unwrap();
        let mut changed = whole.clone();
        changed[4000] ^= 1;
        for wrong in [&data[..], &whole[..4000], &whole[..10], &[], &changed] {
            std::fs::write(&path, wrong).unwrap();
            assert_eq!(cache.pipelines(), None, "{} bytes", wrong.len());
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
