//! HTML as Markdown.

use htmd::HtmlToMarkdown;

use crate::documents::Unread;
use crate::documents::out::Out;

pub(super) fn read(html: &str, out: &mut Out) -> Result<(), Unread> {
    let skipped = vec!["script", "style", "noscript", "template", "svg", "iframe", "head"];
    let markdown = HtmlToMarkdown::builder()
        .skip_tags(skipped)
        .build()
        .convert(html)
        .map_err(Unread::broken)?;
    out.push(&markdown);
    Ok(())
}
