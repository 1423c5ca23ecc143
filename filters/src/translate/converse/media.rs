//! Pictures and documents: the provider wants them in the request, with a format and, for documents, a name.

use std::collections::HashSet;

use super::super::neutral::Source;
use super::super::object::Fault;
use super::super::out::Fields;
use super::super::text::Text;

/// Longest name of a document, in characters.
const MAX_NAME: usize = 200;

/// # Errors
/// When the picture is not in the request, or of a type that the provider does not know.
pub(super) fn check_image(source: &Source<'_>) -> Result<(), Fault> {
    let media = check_source(source, "picture")?;
    if media.is_some_and(|media| image_format(&media.plain()).is_none()) {
        let advice = "hold a picture that is no PNG, JPEG, GIF or WebP, and this model's provider \
                      takes no other";
        return Err(Fault::new("messages", advice));
    }
    Ok(())
}

/// # Errors
/// When the document is not in the request, or of a type that the provider does not know.
pub(super) fn check_document(source: &Source<'_>, name: Option<&Text<'_>>) -> Result<(), Fault> {
    let media = check_source(source, "document")?;
    if media.is_some_and(|media| document_format(media, name).is_none()) {
        let advice = "hold a document whose type this model's provider does not take: it takes \
                      PDF, CSV, DOC, DOCX, XLS, XLSX, HTML, TXT and MD";
        return Err(Fault::new("messages", advice));
    }
    Ok(())
}

/// The media type of what is in the request.
fn check_source<'s, 'a>(source: &'s Source<'a>, what: &str) -> Result<Option<&'s Text<'a>>, Fault> {
    let problem = match source {
        Source::Base64(_, data) if data.is_empty() => format!("hold a {what} without data"),
        Source::Base64(media, _) => return Ok(Some(media)),
        Source::Plain(_) => return Ok(None),
        Source::Url(_) => format!(
            "hold a {what} at an address, which this model's provider does not fetch: send the \
             {what} itself, as a `data:` URL with base64"
        ),
        Source::Upload(_) => format!(
            "name an uploaded {what}, which this model's provider does not have: send the {what} \
             itself, as base64"
        ),
    };
    Err(Fault::new("messages", problem))
}

pub(super) fn image(to: &mut Fields<'_>, source: &Source<'_>) {
    let Source::Base64(media, data) = source else { return };
    to.object("image", |image| {
        image.word("format", image_format(&media.plain()).unwrap_or("png"));
        image.object("source", |source| source.text("bytes", data));
    });
}

pub(super) fn document(
    to: &mut Fields<'_>,
    source: &Source<'_>,
    name: Option<&Text<'_>>,
    names: &mut Names,
) {
    let format = match source {
        Source::Base64(media, _) => document_format(media, name).unwrap_or("txt"),
        _ => "txt",
    };
    to.object("document", |document| {
        document.word("format", format);
        document.text("name", &Text::of(&names.next(name)));
        document.object("source", |to| match source {
            Source::Base64(_, data) => to.text("bytes", data),
            Source::Plain(text) | Source::Url(text) | Source::Upload(text) => to.text("text", text),
        });
    });
}

fn image_format(media: &str) -> Option<&'static str> {
    let subtype = media.split_once('/').filter(|(kind, _)| kind.eq_ignore_ascii_case("image"))?.1;
    Some(match subtype.to_ascii_lowercase().as_str() {
        "png" => "png",
        "jpeg" | "jpg" => "jpeg",
        "gif" => "gif",
        "webp" => "webp",
        _ => return None,
    })
}

/// By the media type, or by the ending of the name where the type says nothing.
fn document_format(media: &Text<'_>, name: Option<&Text<'_>>) -> Option<&'static str> {
    const WORD: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
    const SHEET: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
    Some(match media.plain().to_ascii_lowercase().as_str() {
        "application/pdf" => "pdf",
        "text/csv" => "csv",
        "application/msword" => "doc",
        WORD => "docx",
        "application/vnd.ms-excel" => "xls",
        SHEET => "xlsx",
        "text/html" => "html",
        "text/markdown" | "text/x-markdown" => "md",
        "text/plain" => "txt",
        "application/octet-stream" => {
            let name = name?.plain();
            let ending = name.rsplit_once('.')?.1.to_ascii_lowercase();
            let known = ["pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "md", "txt"];
            known.into_iter().find(|known| **known == ending)?
        }
        _ => return None,
    })
}

/// The names of the documents so far: no two may be the same.
#[derive(Default)]
pub(super) struct Names {
    taken: HashSet<String>,
    count: usize,
}

impl Names {
    /// A name of what the provider allows: letters, digits, single spaces, hyphens, parentheses, brackets.
    fn next(&mut self, given: Option<&Text<'_>>) -> String {
        let plain = given.map(Text::plain).unwrap_or_default();
        let stem = plain.rsplit_once('.').map_or(&*plain, |(stem, _)| stem);
        let mut name = String::with_capacity(stem.len().min(MAX_NAME));
        for character in stem.chars().take(MAX_NAME - 24) {
            match character {
                'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '(' | ')' | '[' | ']' => {
                    name.push(character);
                }
                _ if character.is_whitespace() && name.ends_with(' ') => {}
                _ if character.is_whitespace() => name.push(' '),
                _ => name.push('-'),
            }
        }
        let name = name.trim();
        let name = if name.is_empty() { "document" } else { name };
        self.count += 1;
        let mut unique = name.to_owned();
        while !self.taken.insert(unique.clone()) {
            self.count += 1;
            unique = format!("{name} ({})", self.count);
        }
        unique
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_documents_are_plain_and_differ() {
        let mut names = Names::default();
        let mut next = |name: &str| names.next(Some(&Text::of(name)));
        assert_eq!(next("Q3  report_é.pdf"), "Q3 report--");
        assert_eq!(next("Q3 report_é.csv"), "Q3 report-- (3)");
        assert_eq!(next(".pdf"), "document");
        assert_eq!(next(&"x".repeat(999)).len(), MAX_NAME - 24);
        let again: HashSet<_> = (0..50).map(|_| next("a (4).b")).collect();
        assert_eq!(again.len(), 50);
    }

    #[test]
    fn a_format_is_told_by_the_type_or_else_by_the_name() {
        let format =
            |media: &str, name: &str| document_format(&Text::of(media), Some(&Text::of(name)));
        assert_eq!(format("application/pdf", "a.txt"), Some("pdf"));
        assert_eq!(format("application/octet-stream", "a.XLSX"), Some("xlsx"));
        assert_eq!(format("application/octet-stream", "a.exe"), None);
        assert_eq!(format("audio/mpeg", "a.pdf"), None);
        assert_eq!(image_format("image/jpg"), Some("jpeg"));
        assert_eq!(image_format("application/png"), None);
    }
}
