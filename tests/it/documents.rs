//! The process that reads one document: what is hostile ends it, and nothing else.

use std::io::{Cursor, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// Its own limit is 20 s; the rest is for two busy cores.
const AT_MOST: Duration = Duration::from_secs(40);

/// An archive of these parts.
pub(crate) fn archive(parts: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, contents) in parts {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(contents.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A Word document of one paragraph.
pub(crate) fn word(text: &str) -> Vec<u8> {
    let xml = format!(
        "<w:document><w:body><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:body></w:document>"
    );
    archive(&[("word/document.xml", &xml)])
}

/// What the process says of a document: its first line and what follows; `None` where it died.
fn read(format: &str, bytes: &[u8]) -> Option<(Value, String)> {
    let begun = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_otari"))
        .arg("read-document")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program");
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{}", json!({"format": format, "pictures": true})).unwrap();
    let _ = input.write_all(bytes);
    drop(input);
    let ended = child.wait_with_output().expect("its own child");
    assert!(begun.elapsed() < AT_MOST, "{:?}", begun.elapsed());
    let out = String::from_utf8_lossy(&ended.stdout).into_owned();
    let (head, text) = out.split_once('\n')?;
    Some((serde_json::from_str(head).ok()?, text.to_owned()))
}

#[test]
fn a_document_is_read_in_a_process_of_its_own() {
    let (head, text) = read("docx", &word("Buy milk.")).expect("an answer");
    assert_eq!((head["broken"].is_null(), text.as_str()), (true, "Buy milk."));
    let (head, text) = read("docx", b"PK").expect("an answer");
    assert!(head["broken"].as_str().is_some_and(|why| why.starts_with("broken: ")), "{head}");
    assert_eq!(text, "");
}

#[test]
fn nothing_hostile_outlives_its_limits() {
    let nested = "<div>".repeat(2_000_000);
    let lists = format!("<ul>{}", "<li><ul>".repeat(200_000));
    let mut pdf = b"%PDF-1.7\n1 0 obj\n".to_vec();
    pdf.extend("[".repeat(1_000_000).bytes());
    let bomb = archive(&[("word/document.xml", &" ".repeat(400 << 20))]);
    let cells = r#"<table:table-cell table:number-columns-repeated="16384" office:value-type="string"><text:p>x</text:p></table:table-cell>"#;
    let rows = format!(
        r#"<office:document-content><office:body><office:spreadsheet><table:table table:name="T"><table:table-row table:number-rows-repeated="1048576">{cells}</table:table-row></table:table></office:spreadsheet></office:body></office:document-content>"#
    );
    let ods = archive(&[
        ("mimetype", "application/vnd.oasis.opendocument.spreadsheet"),
        ("META-INF/manifest.xml", "<manifest:manifest/>"),
        ("content.xml", &rows),
    ]);
    for (format, bytes) in [
        ("html", nested.as_bytes()),
        ("html", lists.as_bytes()),
        ("pdf", &pdf),
        ("docx", &bomb),
        ("sheets", &ods),
    ] {
        // It may die, give up, or read what there is; a text that was read is none but a short one.
        if let Some((_, text)) = read(format, bytes) {
            assert!(text.len() < 16 << 20, "{format}: {} bytes", text.len());
        }
    }
}
