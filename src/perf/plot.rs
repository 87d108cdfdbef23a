//! `--plot`: bus bandwidth and time over size, side by side, both axes logarithmic, as an SVG picture.
#![forbid(unsafe_code)]

use crate::perf::data::RedOp;
use crate::perf::row::{Row, Side};
use plotters::prelude::*;
use std::ops::Range;

const SIZE_PIXELS: (u32, u32) = (1320, 600);
const COLORS: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(23, 190, 207),
];
/// More lines than this nobody can tell apart; the rest is in the table.
const MOST_LINES: usize = 12;

/// A line of the picture.
struct Line {
    label: String,
    /// Size in bytes, bus bandwidth in GB/s, time in microseconds.
    points: Vec<(f64, f64, f64)>,
}

/// The picture of these rows. An error when there is nothing to draw.
pub fn svg(title: &str, rows: &[Row]) -> Result<String, String> {
    let lines = lines(rows);
    if lines.is_empty() {
        return Err("--plot: no row took a measurable time, so there is nothing to draw".into());
    }
    let mut picture = String::new();
    draw(&mut picture, title, &lines).map_err(|error| format!("--plot: {error}"))?;
    Ok(picture)
}

fn lines(rows: &[Row]) -> Vec<Line> {
    let several_roots = rows.iter().any(|row| row.root != rows[0].root);
    let mut lines: Vec<Line> = Vec::new();
    for row in rows {
        for (in_place, side) in row.sides() {
            let label = label(row, in_place, several_roots);
            let Some(point) = point(row, side) else { continue };
            match lines.iter().position(|line| line.label == label) {
                Some(known) => lines[known].points.push(point),
                None if lines.len() < MOST_LINES => lines.push(Line { label, points: vec![point] }),
                None => {}
            }
        }
    }
    lines
}

fn label(row: &Row, in_place: bool, several_roots: bool) -> String {
    let op = row.op.map_or(String::new(), |op: RedOp| format!(" {}", op.name()));
    let root = row.root.filter(|_| several_roots).map_or(String::new(), |root| format!(" root {root}"));
    format!("{}{op}{root}, {}", row.geometry.dtype, if in_place { "in place" } else { "out of place" })
}

/// Logarithms need positive numbers.
fn point(row: &Row, side: &Side) -> Option<(f64, f64, f64)> {
    let point = (row.geometry.size_bytes() as f64, row.bus_bandwidth(side), side.stats.mean);
    (point.0 > 0.0 && point.2 > 0.0).then_some(point)
}

fn draw(
    picture: &mut String,
    title: &str,
    lines: &[Line],
) -> Result<(), DrawingAreaErrorKind<impl std::error::Error + Send + Sync + use<>>> {
    let area = SVGBackend::with_string(picture, SIZE_PIXELS).into_drawing_area();
    area.fill(&WHITE)?;
    let area = area.titled(title, ("sans-serif", 22))?;
    let (left, right) = area.split_horizontally(SIZE_PIXELS.0 / 2);
    panel(&left, "bus bandwidth (GB/s)", lines, |point| point.1)?;
    panel(&right, "time (us)", lines, |point| point.2)?;
    area.present()
}

fn panel<DB: DrawingBackend>(
    area: &DrawingArea<DB, plotters::coord::Shift>,
    caption: &str,
    lines: &[Line],
    value: impl Fn(&(f64, f64, f64)) -> f64,
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    let all = || lines.iter().flat_map(|line| &line.points);
    let sizes = decades(all().map(|point| point.0), 2.0);
    let values = decades(all().map(&value), 10.0);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_right(28)
        .caption(caption, ("sans-serif", 17))
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(sizes.log_scale().base(2.0), values.log_scale())?;
    chart
        .configure_mesh()
        .x_desc("size (bytes)")
        .x_labels(16)
        .y_labels(10)
        .x_label_formatter(&|size| binary_size(*size))
        .y_label_formatter(&|value| plain(*value))
        .label_style(("sans-serif", 13))
        .axis_desc_style(("sans-serif", 14))
        .bold_line_style(RGBColor(205, 205, 205))
        .light_line_style(RGBColor(238, 238, 238))
        .draw()?;
    for (index, line) in lines.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let points: Vec<(f64, f64)> =
            line.points.iter().map(|point| (point.0, value(point))).filter(|point| point.1 > 0.0).collect();
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
            .label(&line.label)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], color.stroke_width(2)));
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, color.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .margin(8)
        .label_font(("sans-serif", 13))
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(190, 190, 190))
        .draw()
}

/// The smallest range between powers of `base` that holds all positive values, never empty.
fn decades(values: impl Iterator<Item = f64>, base: f64) -> Range<f64> {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values.filter(|&value| value > 0.0) {
        (low, high) = (low.min(value), high.max(value));
    }
    if low > high {
        return 1.0..base;
    }
    let (low, high) = (low.log(base).floor(), high.log(base).ceil());
    base.powf(low)..base.powf(high.max(low + 1.0))
}

/// Bytes as the command line takes them.
fn binary_size(bytes: f64) -> String {
    let units = ["", "K", "M", "G", "T"];
    let unit = (0..units.len()).rev().find(|&unit| bytes >= 1024f64.powi(unit as i32)).unwrap_or(0);
    format!("{}{}", plain(bytes / 1024f64.powi(unit as i32)), units[unit])
}

/// Without an exponent and without trailing zeros.
fn plain(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perf::row::tests::sample;

    #[test]
    fn the_picture_has_axes_lines_and_a_legend() {
        let rows: Vec<Row> =
            (3..26).step_by(2).map(|shift| sample(1 << shift, 3.0 + f64::exp2(shift.into()) / 5e3)).collect();
        let picture = svg("all_reduce, 4 ranks", &rows).unwrap();
        assert!(picture.starts_with("<svg"));
        for words in
            ["all_reduce, 4 ranks", "bus bandwidth (GB/s)", "time (us)", "float sum, out of place", "in place", "32K"]
        {
            assert!(picture.contains(words), "{words}");
        }
        assert!(picture.matches("<polyline").count() >= 4);
        assert!(picture.matches("<circle").count() >= 4 * rows.len());
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
    }

    #[test]
    fn one_size_and_one_rank_still_draw() {
        let mut row = sample(8, 2.0);
        row.geometry.world = 1;
        assert!(svg("one", &[row]).is_ok());
        assert!(svg("none", &[]).is_err());
    }

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!(decades([3.0, 70.0, 0.0].into_iter(), 10.0), 1.0..100.0);
        assert_eq!(decades([8.0].into_iter(), 2.0), 8.0..16.0);
        assert_eq!(binary_size(65536.0), "64K");
        assert_eq!(binary_size(8.0), "8");
        assert_eq!(plain(0.001), "0.001");
    }
}
