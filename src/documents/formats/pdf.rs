//! PDF: the text of its pages, or, where there is none, pictures of them.

use hayro::hayro_interpret::font::{Glyph, GlyphRun};
use hayro::hayro_interpret::hayro_cmap::BfString;
use hayro::hayro_interpret::hayro_syntax::Pdf;
use hayro::hayro_interpret::hayro_syntax::page::Page;
use hayro::hayro_interpret::util::TransformExt;
use hayro::hayro_interpret::{
    BlendMode, ClipPath, Context, Device, DrawMode, DrawProps, Image, ImageDrawProps,
    InterpreterCache, InterpreterSettings, SoftMask, interpret_page,
};
use hayro::kurbo::{Affine, BezPath, Point, Rect};
use hayro::vello_cpu::color::palette::css::WHITE;
use hayro::{PixmapSettings, RenderCache, RenderSettings};

use crate::documents::out::Out;
use crate::documents::{MAX_PICTURES, Reading, Unread};

/// Pages that are read.
const MAX_PAGES: usize = 2000;

/// Pictures have so many pixels for each of a page's points.
const SCALE: f32 = 2.0;

/// Longest side of a picture, in pixels: models scale larger ones down.
const MAX_SIDE: f32 = 4096.0;

pub(super) fn read(bytes: &[u8], pictures: bool) -> Result<Reading, Unread> {
    let pdf = Pdf::new(bytes.to_vec()).map_err(|why| Unread::broken(format!("{why:?}")))?;
    let mut out = Out::new();
    let cache = InterpreterCache::new();
    let settings = InterpreterSettings::default();
    for page in pdf.pages().iter().take(MAX_PAGES) {
        if out.is_full() {
            break;
        }
        out.paragraph();
        let (width, height) = page.render_dimensions();
        let mut context = Context::new(
            page.initial_transform(true).to_kurbo(),
            Rect::new(0.0, 0.0, f64::from(width), f64::from(height)),
            &cache,
            page.xref(),
            settings.clone(),
        );
        let mut writer = Writer { out: &mut out, last: None };
        interpret_page(page, &mut context, &mut writer);
    }
    if !out.is_blank() {
        return Ok(Reading { text: out.finish(), pages: Vec::new() });
    }
    let mut pages = Vec::new();
    if pictures {
        let cache = RenderCache::new();
        pages.extend(
            pdf.pages()
                .iter()
                .take(MAX_PICTURES)
                .map_while(|page| picture(page, &cache, &settings)),
        );
    }
    Ok(Reading { text: String::new(), pages })
}

fn picture<'a>(
    page: &'a Page<'a>,
    cache: &RenderCache<'a>,
    settings: &InterpreterSettings,
) -> Option<Vec<u8>> {
    let (width, height) = page.render_dimensions();
    let longest = width.max(height);
    if !longest.is_normal() || width.min(height) < 1.0 {
        return None;
    }
    let scale = SCALE.min(MAX_SIDE / longest);
    let pixels = PixmapSettings { x_scale: scale, y_scale: scale, bg_color: WHITE };
    let picture = hayro::render(page, cache, settings, &RenderSettings::default(), &pixels);
    picture.into_png().ok()
}

/// Where the last glyph stood.
#[derive(Clone, Copy)]
struct Last {
    /// Where the run began: outlined text is drawn twice.
    run: Point,
    baseline: f64,
    end: f64,
    size: f64,
}

/// Writes what is shown, in the order in which it is shown.
struct Writer<'o> {
    out: &'o mut Out,
    last: Option<Last>,
}

/// The size of the font under a transform: glyphs are a thousand units high.
fn size_of(place: Affine) -> f64 {
    (place * Point::new(0.0, 1000.0)).distance(place * Point::ZERO)
}

/// Beyond this part of the font's size two glyphs are of two words.
const WORD_GAP: f64 = 0.18;

impl Writer<'_> {
    /// One glyph, from `start` to `end` on its baseline.
    fn glyph(&mut self, run: Point, start: Point, end: Point, size: f64, text: &str) {
        if let Some(last) = self.last {
            let unit = last.size.max(size).max(0.1);
            let down = (start.y - last.baseline).abs();
            let gap = start.x - last.end;
            if down > 1.7 * unit {
                self.out.paragraph();
            } else if down > 0.45 * unit || gap < -1.5 * unit && down > 0.1 * unit {
                self.out.line();
            } else if gap > 2.5 * unit {
                self.out.push("\t");
            } else if gap.abs() > WORD_GAP * unit && !text.starts_with(' ') {
                self.out.push(" ");
            }
        }
        self.out.push(text);
        self.last = Some(Last { run, baseline: start.y, end: end.x, size });
    }
}

impl<'a> Device<'a> for Writer<'_> {
    fn draw_glyph_run(&mut self, run: &GlyphRun<'_, 'a>, props: DrawProps<'a>, _: &DrawMode) {
        let Some(first) = run.glyphs().first() else { return };
        let at = (props.transform * first.transform()) * Point::ZERO;
        if self.last.is_some_and(|last| last.run.distance_squared(at) < 1e-6) || self.out.is_full()
        {
            return;
        }
        for glyph in run.glyphs() {
            let place = props.transform * glyph.transform();
            let advance = match &**glyph {
                Glyph::Outline(outline) => outline.advance_width(),
                Glyph::Type3(drawn) => drawn.advance_width(),
            };
            // Without a known width half of the size is a fair guess.
            let end = place * Point::new(f64::from(advance.unwrap_or(500.0)), 0.0);
            let (start, size) = (place * Point::ZERO, size_of(place));
            match glyph.as_unicode() {
                Some(BfString::Char(c)) => {
                    self.glyph(at, start, end, size, c.encode_utf8(&mut [0; 4]));
                }
                Some(BfString::String(text)) => self.glyph(at, start, end, size, &text),
                None => self.glyph(at, start, end, size, "\u{FFFD}"),
            }
        }
    }

    fn draw_path(&mut self, _: &BezPath, _: DrawProps<'a>, _: &DrawMode) {}
    fn push_clip_path(&mut self, _: &ClipPath) {}
    fn push_transparency_group(&mut self, _: f32, _: Option<SoftMask<'a>>, _: BlendMode) {}
    fn draw_image(&mut self, _: Image<'a, '_>, _: ImageDrawProps<'a>) {}
    fn pop_clip(&mut self) {}
    fn pop_transparency_group(&mut self) {}
}
