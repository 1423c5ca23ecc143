//! Word and PowerPoint: archives of XML whose elements for text have the same names in both.

use quick_xml::Reader;
use quick_xml::events::{BytesRef, BytesStart, Event};

use super::archive::Archive;
use crate::documents::out::Out;
use crate::documents::{Unread, charset};

/// Word: the text, then what stands at the foot of its pages.
pub(super) fn docx(bytes: &[u8], out: &mut Out) -> Result<(), Unread> {
    let mut archive = Archive::open(bytes)?;
    let Some(document) = archive.read("word/document.xml")? else {
        return Err(Unread::broken("an archive without word/document.xml"));
    };
    text(&document, out)?;
    for notes in ["word/footnotes.xml", "word/endnotes.xml"] {
        if let Some(notes) = archive.read(notes)? {
            out.paragraph();
            text(&notes, out)?;
        }
    }
    Ok(())
}

/// PowerPoint: slide after slide.
pub(super) fn pptx(bytes: &[u8], out: &mut Out) -> Result<(), Unread> {
    let mut archive = Archive::open(bytes)?;
    let number = |name: &str| -> Option<u32> {
        name.strip_prefix("ppt/slides/slide")?.strip_suffix(".xml")?.parse().ok()
    };
    let mut slides: Vec<u32> = archive.names().iter().filter_map(|name| number(name)).collect();
    slides.sort_unstable();
    slides.dedup();
    if slides.is_empty() {
        return Err(Unread::broken("an archive without slides"));
    }
    for slide in slides {
        if out.is_full() {
            break;
        }
        let Some(xml) = archive.read(&format!("ppt/slides/slide{slide}.xml"))? else { continue };
        out.paragraph();
        out.push(&format!("## Slide {slide}\n\n"));
        text(&xml, out)?;
    }
    Ok(())
}

/// What the walk through a document remembers. It does not recurse: nesting costs nothing.
#[derive(Default)]
struct Walk {
    /// In an element that holds characters.
    in_text: u32,
    /// In the description of a paragraph: tabulators are where they stand, not what is typed.
    in_style: u32,
    /// In the second form of something that is there twice.
    in_fallback: u32,
    /// The beginning of the paragraph: a heading's marks, a list's.
    mark: String,
    /// The paragraph.
    line: String,
    /// Tables, the innermost last: cells of the row, and whether it is the first one.
    tables: Vec<(Vec<String>, bool)>,
}

/// Tables within tables beyond this are read as text.
const MAX_TABLES: usize = 16;

fn text(xml: &[u8], out: &mut Out) -> Result<(), Unread> {
    let xml = charset::decode(xml).ok_or_else(|| Unread::broken("XML that is no text"))?;
    let mut reader = Reader::from_str(&xml);
    // What is not closed properly is read as far as it goes.
    reader.config_mut().check_end_names = false;
    let mut walk = Walk::default();
    while !out.is_full() {
        match reader.read_event().map_err(Unread::broken)? {
            Event::Start(tag) => walk.open(&tag),
            Event::Empty(tag) => walk.empty(&tag),
            Event::End(tag) => walk.close(tag.local_name().into_inner(), out),
            Event::Text(text) => walk.characters(&text.xml10_content()),
            Event::CData(text) => walk.characters(&text.xml10_content()),
            Event::GeneralRef(entity) => walk.entity(&entity),
            Event::Eof => break,
            _ => {}
        }
    }
    walk.end_paragraph(out);
    Ok(())
}

impl Walk {
    fn open(&mut self, tag: &BytesStart<'_>) {
        match tag.local_name().into_inner() {
            "t" => self.in_text += 1,
            "pPr" => self.in_style += 1,
            "Fallback" => self.in_fallback += 1,
            "tbl" if self.tables.len() < MAX_TABLES => self.tables.push((Vec::new(), true)),
            "tc" => {
                if let Some((cells, _)) = self.tables.last_mut() {
                    cells.push(String::new());
                }
            }
            _ => self.empty(tag),
        }
    }

    fn empty(&mut self, tag: &BytesStart<'_>) {
        match tag.local_name().into_inner() {
            "tab" if self.in_style == 0 => self.characters_anywhere("\t"),
            "br" | "cr" => self.characters_anywhere("\n"),
            "numPr" => self.mark = "- ".into(),
            "pStyle" => {
                let style = tag.try_get_attribute("w:val").ok().flatten();
                let style = style.map(|style| style.value.to_ascii_lowercase()).unwrap_or_default();
                if style.starts_with("list") {
                    self.mark = "- ".into();
                } else if let Some(level) = heading(&style) {
                    self.mark = format!("{} ", "#".repeat(level));
                }
            }
            _ => {}
        }
    }

    fn close(&mut self, name: &str, out: &mut Out) {
        match name {
            "t" => self.in_text = self.in_text.saturating_sub(1),
            "pPr" => self.in_style = self.in_style.saturating_sub(1),
            "Fallback" => self.in_fallback = self.in_fallback.saturating_sub(1),
            "p" => self.end_paragraph(out),
            "tr" => {
                let is_only = self.tables.len() == 1;
                let Some((cells, is_first)) = self.tables.last_mut() else { return };
                let (cells, rule) = (std::mem::take(cells), std::mem::take(is_first));
                if is_only {
                    out.row(cells.iter().map(String::as_str), rule);
                } else {
                    // A table in a cell of another one: its rows become lines of that cell.
                    self.put_in_cell(cells.join(" "));
                }
            }
            "tbl" => {
                self.tables.pop();
                if self.tables.is_empty() {
                    out.paragraph();
                }
            }
            _ => {}
        }
    }

    fn put_in_cell(&mut self, text: String) {
        let outer = self.tables.len().checked_sub(2).and_then(|at| self.tables.get_mut(at));
        if let Some(cell) = outer.and_then(|(cells, _)| cells.last_mut()) {
            cell.push(' ');
            cell.push_str(&text);
        }
    }

    fn characters(&mut self, text: &str) {
        if self.in_text > 0 {
            self.characters_anywhere(text);
        }
    }

    fn characters_anywhere(&mut self, text: &str) {
        if self.in_fallback == 0 {
            self.line.push_str(text);
        }
    }

    /// `&amp;` and its like. What a document defines itself is left out: it may define billions of laughs.
    fn entity(&mut self, entity: &BytesRef<'_>) {
        if let Ok(Some(c)) = entity.resolve_char_ref() {
            self.characters(c.encode_utf8(&mut [0; 4]));
        } else if let Some(text) = quick_xml::escape::resolve_predefined_entity(entity) {
            self.characters(text);
        }
    }

    fn end_paragraph(&mut self, out: &mut Out) {
        let (mark, line) = (std::mem::take(&mut self.mark), std::mem::take(&mut self.line));
        if let Some(cell) = self.tables.last_mut().and_then(|(cells, _)| cells.last_mut()) {
            cell.push_str(&line);
            cell.push(' ');
        } else if !line.trim().is_empty() {
            let is_item = mark == "- ";
            if !is_item {
                out.paragraph();
            }
            out.push(&mark);
            out.push(line.trim_end());
            out.push(if is_item { "\n" } else { "\n\n" });
        }
    }
}

/// The level of a heading, by the name of its style.
fn heading(style: &str) -> Option<usize> {
    if style == "title" {
        return Some(1);
    }
    let level = style.strip_prefix("heading")?.trim().parse().ok()?;
    (1..=6).contains(&level).then_some(level)
}
