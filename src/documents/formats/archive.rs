//! A zip archive of a stranger.

use std::io::{Cursor, Read};

use zip::ZipArchive;

use crate::documents::Unread;

/// Entries of an archive: large presentations have some thousands.
const MAX_ENTRIES: usize = 10_000;

/// What all entries that are read may unfold to.
const MAX_UNFOLDED: u64 = 128 << 20;

/// How far a large entry may unfold. XML of real documents stays below a hundredfold.
const MAX_RATIO: u64 = 300;

/// Below this the ratio says nothing.
const SMALL: u64 = 4 << 20;

pub(super) struct Archive<'b> {
    zip: ZipArchive<Cursor<&'b [u8]>>,
    left: u64,
}

impl<'b> Archive<'b> {
    pub(super) fn open(bytes: &'b [u8]) -> Result<Self, Unread> {
        let zip = ZipArchive::new(Cursor::new(bytes)).map_err(Unread::broken)?;
        if zip.len() > MAX_ENTRIES {
            return Err(Unread::broken("an archive of too many entries"));
        }
        Ok(Self { zip, left: MAX_UNFOLDED })
    }

    /// The names of its entries that can be read.
    pub(super) fn names(&self) -> Vec<String> {
        self.zip.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect()
    }

    /// The contents of an entry; `None` where there is none of that name.
    pub(super) fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, Unread> {
        let Some(at) = self.zip.index_for_name(name) else { return Ok(None) };
        self.read_at(at).map(Some)
    }

    /// Unfolds every entry once, for libraries that know no limits.
    pub(super) fn check(mut self) -> Result<(), Unread> {
        for at in 0..self.zip.len() {
            self.read_at(at)?;
        }
        Ok(())
    }

    fn read_at(&mut self, at: usize) -> Result<Vec<u8>, Unread> {
        let entry = self.zip.by_index(at).map_err(Unread::broken)?;
        // What an archive says of its sizes may be a lie: only what comes out counts.
        let folded = entry.compressed_size().max(1);
        let most = self.left.min(SMALL.max(folded.saturating_mul(MAX_RATIO)));
        let mut contents = Vec::new();
        entry.take(most + 1).read_to_end(&mut contents).map_err(Unread::broken)?;
        let size = contents.len() as u64;
        if size > most {
            return Err(Unread::broken("an archive that unfolds too far"));
        }
        self.left -= size;
        Ok(contents)
    }
}
