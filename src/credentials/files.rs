//! Small files that hold credentials, read when they are needed: they change while the gateway runs.

use std::path::Path;

use otari_filters::secret::Secret;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

/// Far beyond any file of credentials.
const MAX_BYTES: u64 = 1 << 20;

/// The whole text.
///
/// # Errors
/// What is wrong, with the path.
pub(super) async fn read(path: &Path) -> Result<Secret, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_BYTES) {
        return Err(format!("{}: too long for a file of credentials", path.display()));
    }
    // A BOM comes from editors.
    let text = String::from_utf8_lossy(&bytes);
    Ok(Secret::new(text.trim_start_matches('\u{feff}')))
}

/// Whether something is there.
pub(super) async fn exists(path: &Path) -> bool {
    tokio::fs::metadata(path).await.is_ok()
}
