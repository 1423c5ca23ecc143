//! Two kinds of pictures, as SVG: a dot for each round, and the share of calls that took at most so long.

use std::fmt::Write as _;

use crate::load::Histogram;
use crate::numbers::median;
use crate::report::number;

/// Apart from each other for eyes that do not see red and green (Okabe and Ito).
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#666666", "#000000"];

const WIDTH: f64 = 760.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 48.0;
const LINE: f64 = 30.0;
const HEIGHT: f64 = 300.0;

/// The shares at which a curve has its points.
const SHARES: [f64; 12] =
    [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999];

/// A line for each series: a dot for each value, a bar at their median.
pub(crate) fn dots(title: &str, series: &[(String, Vec<f64>)]) -> String {
    let most = series.iter().flat_map(|(_, values)| values).copied().fold(0.0, f64::max);
    let steps = steps(most);
    let end = steps.last().copied().unwrap_or(1.0);
    let height = TOP + LINE * series.len() as f64 + 40.0;
    let x = |value: f64| LEFT + value / end * (WIDTH - LEFT - RIGHT);
    let mut svg = begin(title, height);
    let bottom = height - 30.0;
    for step in &steps {
        grid(&mut svg, [x(*step), TOP - 8.0], [x(*step), bottom]);
        text(&mut svg, x(*step), bottom + 16.0, "middle", &number(*step));
    }
    for (at, (name, values)) in series.iter().enumerate() {
        let y = TOP + LINE * (at as f64 + 0.5);
        let colour = COLOURS[at % COLOURS.len()];
        let middle = median(values.iter().copied());
        text(&mut svg, LEFT - 10.0, y + 4.0, "end", name);
        shape(
            &mut svg,
            &format!(
                r#"<rect x="{:.1}" y="{:.1}" width="{:.1}" height="12" fill="{colour}" fill-opacity="0.25"/>"#,
                x(0.0),
                y - 6.0,
                (x(middle) - x(0.0)).max(0.0)
            ),
        );
        for value in values {
            shape(
                &mut svg,
                &format!(
                    r#"<circle cx="{:.1}" cy="{y:.1}" r="3.5" fill="{colour}"/>"#,
                    x(value.max(0.0))
                ),
            );
        }
        let last = values.iter().copied().fold(0.0, f64::max);
        text(&mut svg, x(last) + 9.0, y + 4.0, "start", &number(middle));
    }
    end_of(svg)
}

/// Shares from left to right, closer together the fewer are left; times upwards, each line ten times the one below.
pub(crate) fn curves(title: &str, series: &[(&str, &Histogram)]) -> String {
    let lines: Vec<(&str, Vec<(f64, f64)>)> = series
        .iter()
        .map(|(name, histogram)| {
            // A share that is not one call is the longest call again.
            let all = histogram.total as f64;
            let shares = SHARES.iter().filter(|share| all * (1.0 - *share) >= 1.0 || **share < 0.9);
            let points = shares.map(|share| (*share, histogram.quantile_us(share.max(1e-9))));
            (*name, points.filter(|(_, us)| *us > 0.0).collect())
        })
        .collect();
    let all = || lines.iter().flat_map(|(_, points)| points.iter().map(|(_, us)| *us));
    let low = all().fold(f64::INFINITY, f64::min).max(0.1).log10().floor();
    let high = all().fold(1.0, f64::max).log10().ceil().max(low + 1.0);
    let (left, right) = (70.0, 130.0);
    let widest = -(1.0 - SHARES[SHARES.len() - 1]).log10();
    let x = |share: f64| left - (1.0 - share).log10() / widest * (WIDTH - left - right);
    let (top, bottom) = (TOP, HEIGHT - 40.0);
    let y = |us: f64| bottom - (us.max(0.1).log10() - low) / (high - low) * (bottom - top);
    let mut svg = begin(title, HEIGHT);
    let mut decade = low;
    while decade <= high {
        let us = 10f64.powf(decade);
        grid(&mut svg, [left, y(us)], [WIDTH - right, y(us)]);
        text(&mut svg, left - 8.0, y(us) + 4.0, "end", &time(us));
        decade += 1.0;
    }
    for (share, name) in [(0.0, "min"), (0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9")]
    {
        grid(&mut svg, [x(share), top], [x(share), bottom]);
        text(&mut svg, x(share), bottom + 18.0, "middle", name);
    }
    for (at, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let path: Vec<String> =
            points.iter().map(|(share, us)| format!("{:.1},{:.1}", x(*share), y(*us))).collect();
        shape(
            &mut svg,
            &format!(
                r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
                path.join(" ")
            ),
        );
        let legend = TOP + 8.0 + 20.0 * at as f64;
        let begin = WIDTH - right + 14.0;
        shape(
            &mut svg,
            &format!(
                r#"<line x1="{begin:.0}" y1="{legend:.0}" x2="{:.0}" y2="{legend:.0}" stroke="{colour}" stroke-width="3"/>"#,
                begin + 18.0
            ),
        );
        text(&mut svg, begin + 24.0, legend + 4.0, "start", name);
    }
    end_of(svg)
}

/// Round numbers from 0 to `most` or just beyond, five or so.
fn steps(most: f64) -> Vec<f64> {
    if most <= 0.0 || !most.is_finite() {
        return vec![0.0, 1.0];
    }
    let rough = most / 5.0;
    let ten = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|of| of * ten).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(ten * 10.0);
    let count = (most / step).ceil() as u32;
    (0..=count).map(|at| f64::from(at) * step).collect()
}

fn time(us: f64) -> String {
    match us {
        1_000_000.0.. => format!("{} s", us / 1_000_000.0),
        1000.0.. => format!("{} ms", us / 1000.0),
        _ => format!("{us} µs"),
    }
}

fn begin(title: &str, height: f64) -> String {
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:.0}" height="{height:.0}" viewBox="0 0 {WIDTH:.0} {height:.0}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
"#
    );
    shape(
        &mut svg,
        &format!(r##"<text x="14" y="22" font-size="15" fill="#222222">{}</text>"##, safe(title)),
    );
    svg
}

fn end_of(mut svg: String) -> String {
    svg.push_str("</svg>\n");
    svg
}

fn shape(svg: &mut String, shape: &str) {
    svg.push_str(shape);
    svg.push('\n');
}

fn grid(svg: &mut String, from: [f64; 2], to: [f64; 2]) {
    shape(
        svg,
        &format!(
            r##"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="#dddddd"/>"##,
            from[0], from[1], to[0], to[1]
        ),
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="#333333">{}</text>"##,
        safe(text)
    );
}

fn safe(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
