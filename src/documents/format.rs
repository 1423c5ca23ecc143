//! Which format a document has, by its name, its type and its first bytes.

use serde::{Deserialize, Serialize};

/// How the bytes of a document are read.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// PDF.
    Pdf,
    /// Word, since 2007.
    Docx,
    /// PowerPoint, since 2007.
    Pptx,
    /// Excel, old and new, and OpenDocument's tables.
    Sheets,
    /// HTML.
    Html,
    /// Whatever can be read as it is: text, Markdown, CSV, JSON, XML, programs.
    Text,
}

impl Format {
    /// What the extension of `filename` says, else what `mime` says; the first bytes win over both where they are those
    /// of a PDF. `None`: it is not read.
    pub fn of(filename: Option<&str>, mime: Option<&str>, bytes: &[u8]) -> Option<Self> {
        // Some programs write a line before it.
        let head = &bytes[..bytes.len().min(1024)];
        if memchr::memmem::find(head, b"%PDF-").is_some() {
            return Some(Self::Pdf);
        }
        let said = filename.and_then(extension).and_then(|ext| by_extension(&ext));
        said.or_else(|| mime.and_then(by_mime)).or_else(|| by_bytes(bytes))
    }

    /// Whether reading it takes no more than decoding it.
    pub(super) fn is_plain(self) -> bool {
        self == Self::Text
    }
}

fn extension(filename: &str) -> Option<String> {
    let (_, extension) = filename.rsplit_once('.')?;
    Some(extension.to_ascii_lowercase())
}

fn by_extension(extension: &str) -> Option<Format> {
    Some(match extension {
        "pdf" => Format::Pdf,
        "docx" | "docm" | "dotx" => Format::Docx,
        "pptx" | "pptm" | "ppsx" => Format::Pptx,
        "xlsx" | "xlsm" | "xlsb" | "xls" | "xla" | "ods" => Format::Sheets,
        "html" | "htm" | "xhtml" => Format::Html,
        "txt" | "text" | "md" | "markdown" | "csv" | "tsv" | "json" | "jsonl" | "ndjson"
        | "xml" | "yaml" | "yml" | "toml" | "ini" | "log" | "rst" | "tex" | "srt" | "vtt" => {
            Format::Text
        }
        // Many are names of programming languages: the bytes tell.
        _ => return None,
    })
}

fn by_mime(mime: &str) -> Option<Format> {
    let office = "application/vnd.openxmlformats-officedocument.";
    if let Some(kind) = mime.strip_prefix(office) {
        return Some(match kind {
            kind if kind.starts_with("wordprocessingml") => Format::Docx,
            kind if kind.starts_with("presentationml") => Format::Pptx,
            kind if kind.starts_with("spreadsheetml") => Format::Sheets,
            _ => return None,
        });
    }
    Some(match mime {
        "application/pdf" => Format::Pdf,
        "application/vnd.ms-excel"
        | "application/vnd.ms-excel.sheet.binary.macroenabled.12"
        | "application/vnd.ms-excel.sheet.macroenabled.12"
        | "application/vnd.oasis.opendocument.spreadsheet" => Format::Sheets,
        "text/html" | "application/xhtml+xml" => Format::Html,
        _ if mime.starts_with("text/") || mime.ends_with("+json") || mime.ends_with("+xml") => {
            Format::Text
        }
        "application/json" | "application/xml" | "application/yaml" => Format::Text,
        _ => return None,
    })
}

/// Of what nobody named: office documents name their parts, and text is what reads as such.
fn by_bytes(bytes: &[u8]) -> Option<Format> {
    if bytes.starts_with(b"PK\x03\x04") {
        let has = |part: &[u8]| memchr::memmem::find(bytes, part).is_some();
        return if has(b"word/document.xml") {
            Some(Format::Docx)
        } else if has(b"ppt/presentation.xml") {
            Some(Format::Pptx)
        } else if has(b"xl/workbook.") || has(b"opendocument.spreadsheet") {
            Some(Format::Sheets)
        } else {
            None
        };
    }
    let text = super::charset::decode(bytes)?;
    let head: String = text.trim_start().chars().take(15).collect();
    let head = head.to_ascii_lowercase();
    Some(if head.starts_with("<!doctype html") || head.starts_with("<html") {
        Format::Html
    } else {
        Format::Text
    })
}

/// The type of an image, by its first bytes.
pub fn image_mime(bytes: &[u8]) -> Option<&'static str> {
    Some(match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => "image/png",
        [0xFF, 0xD8, 0xFF, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_type_and_bytes_decide_in_that_order() {
        for (name, mime, bytes, want) in [
            (Some("a.DOCX"), Some("text/plain"), &b"x"[..], Some(Format::Docx)),
            (
                None,
                Some("application/vnd.openxmlformats-officedocument.presentationml.presentation"),
                b"",
                Some(Format::Pptx),
            ),
            (Some("a"), Some("text/csv"), b"a,b", Some(Format::Text)),
            (Some("a.txt"), None, b"\n%PDF-1.7", Some(Format::Pdf)),
            (Some("a.rs"), Some("application/octet-stream"), b"fn main() {}", Some(Format::Text)),
            (None, None, b"\xEF\xBB\xBF <!DOCTYPE HTML><p>", Some(Format::Html)),
            (None, None, b"PK\x03\x04....word/document.xml", Some(Format::Docx)),
            (None, None, b"PK\x03\x04", None),
            (Some("a.doc"), None, b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1\0\0", None),
            (Some("a.exe"), None, b"MZ\0\0", None),
        ] {
            assert_eq!(Format::of(name, mime, bytes), want, "{name:?} {mime:?}");
        }
        assert_eq!(image_mime(b"\x89PNG\r\n\x1a\n"), Some("image/png"));
        assert_eq!(image_mime(b"%PDF"), None);
    }
}
