//! The library in the gateway's process that takes names, disk and clock away (`shim.c`), built when the suite begins.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// The library, and the folder that goes with the process; `None` without a C compiler, which is said once.
fn library() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(build).as_deref()
}

/// Whether the faults that need it can be made.
pub(crate) fn is_there() -> bool {
    library().is_some()
}

fn build() -> Option<PathBuf> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/shim.c");
    // Below the build's own folder, not in a temporary one: statics are never dropped. Two processes may build at once.
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("otari-faults.so");
    let fresh = library.with_extension(format!("so.{}", std::process::id()));
    let mut command = Command::new("cc");
    command.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&fresh).args([source, "-ldl"]);
    let is_built = command.status().is_ok_and(|status| status.success());
    (is_built && std::fs::rename(&fresh, &library).is_ok()).then_some(library)
}

/// What is wrong in one gateway's process.
pub(crate) struct Shim {
    file: File,
    path: PathBuf,
    _folder: TempDir,
}

impl Shim {
    /// Nothing is wrong yet; `None` without the library.
    pub(crate) fn new() -> Option<Self> {
        library()?;
        let folder = TempDir::new().expect("a temporary folder");
        let path = folder.path().join("wrong");
        let open = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = open.expect("a file in a temporary folder");
        file.set_len(4096).expect("a page");
        Some(Self { file, path, _folder: folder })
    }

    /// Environment of the gateway.
    pub(crate) fn environment(&self) -> [(&'static str, String); 2] {
        let text = |path: &Path| path.to_str().expect("an ASCII path").to_owned();
        let library = library().expect("it was there when this was made");
        [("LD_PRELOAD", text(library)), ("OTARI_FAULTS", text(&self.path))]
    }

    fn set(&self, at: u64, value: i64) {
        self.file.write_all_at(&value.to_ne_bytes(), at * 8).expect("a page of one's own");
    }

    pub(crate) fn set_clock(&self, offset_s: i64) {
        self.set(0, offset_s);
    }

    pub(crate) fn fill_disk(&self, is_full: bool) {
        self.set(1, i64::from(is_full));
    }

    pub(crate) fn take_names(&self, are_gone: bool) {
        self.set(2, i64::from(are_gone));
    }

    /// How often each of them was met: clock, disk, names.
    pub(crate) fn met(&self) -> [i64; 3] {
        [3, 4, 5].map(|at| {
            let mut bytes = [0; 8];
            self.file.read_exact_at(&mut bytes, at * 8).expect("a page of one's own");
            i64::from_ne_bytes(bytes)
        })
    }
}
