//! A plot for each case: bars, or a line where the ways are numbers.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

use crate::case::{Case, Metric, Series};

const SIZE: (u32, u32) = (640, 280);
const FONT: (&str, u32) = ("sans-serif", 13);
const OTHERS: RGBColor = RGBColor(150, 160, 175);
const OURS: RGBColor = RGBColor(30, 110, 200);

/// Draws the first quantity of a case into an SVG file.
pub(crate) fn draw(case: &Case, file: &Path) -> Result<()> {
    let Some(metric) = case.metrics.iter().find(|metric| !metric.series.is_empty()) else { return Ok(()) };
    let drawn = if case.axis.is_some() { line(case, metric, file) } else { bars(case, metric, file) };
    drawn.map_err(|error| anyhow!("{error}")).with_context(|| format!("cannot draw {}", file.display()))
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// The highest figure, with some room above.
fn ceiling(metric: &Metric) -> f64 {
    let most = metric.series.iter().flat_map(|series| &series.rounds).copied().fold(0.0, f64::max);
    if most > 0.0 { most * 1.1 } else { 1.0 }
}

fn caption(case: &Case, metric: &Metric) -> String {
    format!("{}: {}, {}", case.title, metric.name, metric.unit)
}

/// A bar for each way's median, with a line from its least to its most.
fn bars(case: &Case, metric: &Metric, file: &Path) -> Drawn {
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let count = metric.series.len();
    let mut chart = ChartBuilder::on(&area)
        .caption(caption(case, metric), FONT)
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(200)
        .build_cartesian_2d(0.0..ceiling(metric), 0.0..count as f64)?;
    chart.configure_mesh().disable_y_mesh().disable_y_axis().x_labels(6).draw()?;
    for (place, series) in metric.series.iter().enumerate() {
        let Some(spread) = series.spread() else { continue };
        // The first on top.
        let middle = (count - place) as f64 - 0.5;
        let colour = if series.name.starts_with("dapper") { OURS } else { OTHERS };
        let bar = [(0.0, middle - 0.35), (spread.median, middle + 0.35)];
        chart.draw_series([Rectangle::new(bar, colour.filled())])?;
        let reach = vec![(spread.least, middle), (spread.most, middle)];
        chart.draw_series([PathElement::new(reach, BLACK)])?;
        let (_, y) = chart.backend_coord(&(0.0, middle));
        area.draw(&Text::new(series.name.clone(), (12, y - 6), FONT))?;
    }
    area.present()?;
    Ok(())
}

/// A line through the medians over the numbers, which grow by factors, with a point for each round.
fn line(case: &Case, metric: &Metric, file: &Path) -> Drawn {
    let number = |series: &Series| series.name.parse::<f64>().unwrap_or(0.0).max(1.0);
    let first = metric.series.iter().map(number).fold(f64::INFINITY, f64::min);
    let last = metric.series.iter().map(number).fold(1.0, f64::max);
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(caption(case, metric), FONT)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d((first..last * 1.2).log_scale(), 0.0..ceiling(metric))?;
    chart.configure_mesh().x_desc(case.axis.clone().unwrap_or_default()).x_labels(8).y_labels(6).draw()?;
    let medians = metric.series.iter().filter_map(|series| Some((number(series), series.spread()?.median)));
    chart.draw_series(LineSeries::new(medians, OURS.stroke_width(2)))?;
    for series in &metric.series {
        let points =
            series.rounds.iter().map(|&figure| Circle::new((number(series), figure), 3, OURS.filled()));
        chart.draw_series(points)?;
    }
    area.present()?;
    Ok(())
}
