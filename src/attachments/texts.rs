//! What stands in the place of an attachment that the model cannot take: what a document says, what is to be seen in an
//! image, or that there was something.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::join_all;
use otari_filters::attachments::{Kind, Source, texts};
use otari_filters::meter::Usage;

use super::{Described, Held, Instead, World, bytes_of};
use crate::documents::{self, Format, Readers, Unread, Wanted};

/// Pages of one document that are described at the same time.
const AT_ONCE: usize = 4;

/// The bytes of an attachment, and what was said of them.
struct Found<'h> {
    bytes: Bytes,
    mime: Option<&'h str>,
    filename: Option<&'h str>,
}

/// The text for `held`, whose bytes are there. What descriptions cost is added to `usage`.
pub(super) async fn make(
    body: &Bytes,
    held: &Held,
    world: &dyn World,
    readers: &Readers,
    usage: &mut Vec<Usage>,
) -> Instead {
    let kind = held.block.kind;
    // Text that the request itself holds needs no reader.
    if let Source::Text(text) = &held.block.source {
        return match text.get(body) {
            Some(text) => Instead::Text(texts::document(name(held), &text).into()),
            None => Instead::Itself,
        };
    }
    let Some(found) = found(body, held) else { return Instead::Itself };
    let said = match kind {
        Kind::Image => image(&found, world, usage).await,
        Kind::Document => match document(&found, world, readers, usage).await {
            Ok(said) => said,
            Err(Unread::NoReader(why)) => {
                tracing::error!(why, "no document can be read: attachments go on as they came");
                return Instead::Itself;
            }
            Err(why) => {
                tracing::info!(%why, bytes = found.bytes.len(), "a document was not read");
                None
            }
        },
    };
    Instead::Text(said.unwrap_or_else(|| texts::omitted(kind).into()).into())
}

fn name(held: &Held) -> Option<&str> {
    let stored = held.file.as_ref().map(|file| file.filename.as_str());
    held.block.filename.as_deref().or(stored).filter(|name| !name.trim().is_empty())
}

fn found<'h>(body: &Bytes, held: &'h Held) -> Option<Found<'h>> {
    let filename = name(held);
    match (&held.file, &held.block.source) {
        (Some(file), _) => {
            Some(Found { bytes: file.bytes.clone(), mime: Some(&file.mime_type), filename })
        }
        (None, Source::Data(data)) => {
            let bytes = bytes_of::decode(data, body)?.into();
            Some(Found { bytes, mime: data.mime.as_deref(), filename })
        }
        _ => None,
    }
}

async fn image(found: &Found<'_>, world: &dyn World, usage: &mut Vec<Usage>) -> Option<String> {
    if !world.describes() {
        return None;
    }
    let said = found.mime.filter(|mime| mime.starts_with("image/"));
    let mime = said.or_else(|| documents::image_mime(&found.bytes))?;
    let caption = keep(world.describe(&data_url(mime, &found.bytes)).await, usage)?;
    Some(texts::described(&caption))
}

async fn document(
    found: &Found<'_>,
    world: &dyn World,
    readers: &Readers,
    usage: &mut Vec<Usage>,
) -> Result<Option<String>, Unread> {
    if documents::image_mime(&found.bytes).is_some() {
        return Ok(image(found, world, usage).await);
    }
    let format = Format::of(found.filename, found.mime, &found.bytes).ok_or(Unread::Unknown)?;
    let wanted = Wanted { format, pictures: world.describes() };
    let reading = readers.read(wanted, found.bytes.clone()).await?;
    if !reading.text.is_empty() {
        return Ok(Some(texts::document(found.filename, &reading.text)));
    }
    let mut pages = Vec::with_capacity(reading.pages.len());
    for some in reading.pages.chunks(AT_ONCE) {
        let asked = some
            .iter()
            .map(|page| async move { world.describe(&data_url("image/png", page)).await });
        for described in join_all(asked).await {
            pages.push(keep(described, usage).map(String::into_boxed_str));
        }
    }
    let is_seen = pages.iter().any(Option::is_some);
    Ok(is_seen.then(|| texts::scanned(found.filename, &pages)))
}

/// The words of a description that has some; what it cost is kept either way.
fn keep(described: Option<Described>, usage: &mut Vec<Usage>) -> Option<String> {
    let described = described?;
    usage.extend(described.usage);
    Some(described.text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn data_url(mime: &str, bytes: &[u8]) -> String {
    let mut url = format!("data:{mime};base64,");
    STANDARD.encode_string(bytes, &mut url);
    url
}
