//! Documents, whole and broken. What kills its reader is in `tests/it/documents.rs`: it needs a process to kill.

use std::io::{Cursor, Write};

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

fn ask(format: Format, bytes: &[u8]) -> Result<String, Unread> {
    read(Wanted { format, pictures: false }, bytes).map(|reading| reading.text)
}

fn archive(parts: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, contents) in parts {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(contents.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn word(body: &str) -> Vec<u8> {
    let xml = format!(
        r#"<?xml version="1.0"?><w:document xmlns:w="w" xmlns:mc="mc"><w:body>{body}</w:body></w:document>"#
    );
    archive(&[("word/document.xml", &xml)])
}

#[test]
fn word_documents_become_markdown() {
    let docx = word(
        r#"<w:p><w:pPr><w:pStyle w:val="Heading2"/><w:tabs><w:tab w:val="left"/></w:tabs></w:pPr><w:r><w:t>Title</w:t></w:r></w:p>
        <w:p><w:r><w:t xml:space="preserve">Fish &amp; </w:t></w:r><w:r><w:t>chips&#33;</w:t><w:tab/><w:t>x</w:t></w:r></w:p>
        <w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>one</w:t></w:r></w:p><w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>two</w:t></w:r></w:p>
        <w:p><w:r><w:delText>gone</w:delText><w:instrText>PAGE</w:instrText></w:r></w:p>
        <mc:AlternateContent><mc:Choice><w:p><w:r><w:t>once</w:t></w:r></w:p></mc:Choice><mc:Fallback><w:p><w:r><w:t>twice</w:t></w:r></w:p></mc:Fallback></mc:AlternateContent>
        <w:tbl><w:tr><w:tc><w:p><w:r><w:t>a</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>b|c</w:t></w:r></w:p></w:tc></w:tr>
        <w:tr><w:tc><w:p/></w:tc><w:tc><w:tbl><w:tr><w:tc><w:p><w:r><w:t>in</w:t></w:r></w:p></w:tc></w:tr></w:tbl><w:p/></w:tc></w:tr></w:tbl>
        <w:p><w:r><w:t>end</w:t></w:r></w:p>"#,
    );
    let want = "## Title\n\nFish & chips!\tx\n\n- one\n- two\n\nonce\n\n| a | b\\|c |\n| --- | --- |\n|  | in |\n\nend";
    assert_eq!(ask(Format::Docx, &docx).unwrap(), want);
}

#[test]
fn presentations_are_read_in_the_order_of_their_slides() {
    let slide = |text: &str| format!("<p:sld><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:sld>");
    let (one, two, ten) = (slide("first"), slide("second"), slide("tenth"));
    let pptx = archive(&[
        ("ppt/slides/slide10.xml", &ten),
        ("ppt/slides/slide2.xml", &two),
        ("ppt/slides/slide1.xml", &one),
        ("ppt/slides/_rels/slide1.xml.rels", "<x/>"),
    ]);
    let want = "## Slide 1\n\nfirst\n\n## Slide 2\n\nsecond\n\n## Slide 10\n\ntenth";
    assert_eq!(ask(Format::Pptx, &pptx).unwrap(), want);
}

/// A workbook of one sheet.
fn workbook(rows: &str) -> Vec<u8> {
    let sheet = format!("<worksheet><sheetData>{rows}</sheetData></worksheet>");
    let office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
    archive(&[
        ("[Content_Types].xml", "<Types/>"),
        (
            "_rels/.rels",
            &format!(
                r#"<Relationships><Relationship Id="rId1" Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>"#
            ),
        ),
        (
            "xl/workbook.xml",
            &format!(
                r#"<workbook xmlns:r="{office}"><sheets><sheet name="Costs" sheetId="1" r:id="rId1"/></sheets></workbook>"#
            ),
        ),
        (
            "xl/_rels/workbook.xml.rels",
            &format!(
                r#"<Relationships><Relationship Id="rId1" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>"#
            ),
        ),
        ("xl/worksheets/sheet1.xml", &sheet),
    ])
}

#[test]
fn workbooks_become_tables_and_gaps_cost_nothing() {
    let book = workbook(
        r#"<row r="1"><c r="A1" t="inlineStr"><is><t>what</t></is></c><c r="B1" t="inlineStr"><is><t>n</t></is></c></row>
        <row r="2"><c r="A2" t="inlineStr"><is><t>paper</t></is></c><c r="B2"><v>12.5</v></c></row>
        <row r="1048576"><c r="A1048576"><v>7</v></c><c r="XFD1048576"><v>8</v></c></row>"#,
    );
    let want = "## Costs\n\n| what | n |\n| --- | --- |\n| paper | 12.5 |\n| 7 |";
    assert_eq!(ask(Format::Sheets, &book).unwrap(), want);
}

#[test]
fn old_and_open_workbooks_are_read() {
    let xls = include_bytes!("tests/old.xls");
    assert_eq!(
        ask(Format::Sheets, xls).unwrap(),
        "## Old\n\n| name | n |\n| --- | --- |\n| ada | 7 |"
    );
    let ods = include_bytes!("tests/open.ods");
    assert_eq!(ask(Format::Sheets, ods).unwrap(), "## Ods\n\n| k | v |\n| --- | --- |\n| x | 1 |");
}

#[test]
fn html_becomes_markdown() {
    let html = b"<html><head><title>x</title><style>p{}</style></head><body><h1>Hi</h1><p>One <b>two</b> &amp; \
        <a href='/x'>three</a></p><script>alert(1)</script><ul><li>i</li></ul></body></html>";
    let text = ask(Format::Html, html).unwrap();
    assert!(text.starts_with("# Hi\n\nOne **two** & [three](/x)"), "{text}");
    assert!(!text.contains("alert") && !text.contains("p{}"), "{text}");
}

#[test]
fn pdf_text_keeps_lines_and_words() {
    let text = ask(Format::Pdf, include_bytes!("tests/small.pdf")).unwrap();
    assert_eq!(text, "The secret word is heliotrope.\nSecond line.\n\nPage two.");
}

#[test]
fn a_scanned_pdf_is_made_into_pictures_where_they_are_wanted() {
    let scanned = include_bytes!("tests/scanned.pdf");
    let read = |pictures| read(Wanted { format: Format::Pdf, pictures }, scanned).unwrap();
    assert_eq!(read(false), Reading::default());
    let reading = read(true);
    assert_eq!((reading.text.as_str(), reading.pages.len()), ("", 2));
    for page in &reading.pages {
        // Twice the page's 300 by 120 points.
        assert_eq!(page[..8], *b"\x89PNG\r\n\x1a\n");
        assert_eq!(
            (&page[16..20], &page[20..24]),
            (&600_u32.to_be_bytes()[..], &240_u32.to_be_bytes()[..])
        );
    }
}

/// A PDF of these objects; the first is the catalogue.
fn pdf(objects: &[&str]) -> Vec<u8> {
    let mut out = b"%PDF-1.7\n".to_vec();
    for (at, object) in objects.iter().enumerate() {
        out.extend_from_slice(format!("{} 0 obj\n{object}\nendobj\n", at + 1).as_bytes());
    }
    out.extend_from_slice(b"trailer\n<< /Root 1 0 R >>\n%%EOF");
    out
}

#[test]
fn a_pdf_that_goes_round_in_circles_comes_to_an_end() {
    let catalogue = "<< /Type /Catalog /Pages 2 0 R >>";
    for objects in [
        // Pages that are their own children.
        vec![catalogue, "<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 2 >>"],
        // A form that draws itself.
        vec![
            catalogue,
            "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R /Resources << /XObject << /F 5 0 R >> >> >>",
            "<< /Length 4 >>\nstream\n/F Do\nendstream",
            "<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /F 5 0 R >> >> /Length 4 >>\nstream\n/F Do\nendstream",
        ],
        // Contents that are their own length.
        vec![
            catalogue,
            "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R >>",
            "<< /Length 4 0 R >>\nstream\n/F Do\nendstream",
        ],
    ] {
        let reading = read(Wanted { format: Format::Pdf, pictures: true }, &pdf(&objects));
        assert!(reading.is_err() || reading.unwrap().text.is_empty());
    }
}

#[test]
fn archives_that_lie_or_unfold_too_far_are_refused() {
    let broken = |format, bytes: &[u8]| match ask(format, bytes) {
        Err(Unread::Broken(why)) => why,
        other => panic!("{other:?}"),
    };
    let whole = word("<w:p/>");
    broken(Format::Docx, &whole[..whole.len() / 2]);
    broken(Format::Docx, b"PK\x03\x04");
    broken(Format::Docx, b"");
    broken(Format::Pptx, &whole);
    broken(Format::Sheets, b"");
    broken(Format::Pdf, b"%PDF-1.7");
    let bomb = word(&" ".repeat(64 << 20));
    assert!(bomb.len() < 1 << 20);
    for format in [Format::Docx, Format::Sheets] {
        assert_eq!(broken(format, &bomb), "an archive that unfolds too far");
    }
    let names: Vec<String> = (0..10_001).map(|at| at.to_string()).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    assert_eq!(broken(Format::Docx, &archive(&many)), "an archive of too many entries");
}

#[test]
fn xml_that_laughs_or_nests_costs_nothing() {
    let mut laughs = String::from("<!DOCTYPE w [<!ENTITY a \"ha\">");
    for level in 1..40 {
        laughs.push_str(&format!("<!ENTITY a{level} \"&a{0};&a{0};\">", level - 1));
    }
    laughs.push_str("]><w><p><t>one &a39; two &lt;</t></p></w>");
    let docx = archive(&[("word/document.xml", &laughs)]);
    assert_eq!(ask(Format::Docx, &docx).unwrap(), "one  two <");
    let deep = word(&"<w:tbl><w:tr><w:tc><w:p>".repeat(50_000));
    assert_eq!(ask(Format::Docx, &deep).unwrap(), "");
}

#[test]
fn no_prefix_of_a_document_is_more_than_broken() {
    for (format, whole) in [
        (Format::Pdf, &include_bytes!("tests/small.pdf")[..]),
        (Format::Sheets, include_bytes!("tests/old.xls")),
        (Format::Sheets, include_bytes!("tests/open.ods")),
        (Format::Docx, &word("<w:p><w:r><w:t>x</w:t></w:r></w:p>")),
    ] {
        for end in (0..whole.len()).step_by(97) {
            // A library may panic on it; that is caught where it is called.
            let _ = std::panic::catch_unwind(|| ask(format, &whole[..end]));
        }
    }
}
