//! Draws what `bench/run` has measured: latest.json becomes delay.svg, memory.svg, cpu.svg and
//! storm.svg.
//!
//! ```text
//! plot bench/results/latest.json bench/results
//! ```
//!
//! A figure that was not measured is not drawn.

use std::error::Error;
use std::fs;
use std::path::Path;

use bench::args::fail;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use serde_json::Value;

const USAGE: &str = "plot LATEST.json FOLDER";
const SIZE: (u32, u32) = (800, 420);
/// Delays below this are noise of the clock and of wake-ups.
const DELAY_US_MIN: f64 = 10.0;
/// One line for each of these, where it was measured: its name in the JSON, its label, its colour.
const LINES: [(&str, &str, RGBColor); 5] = [
    ("ours", "CloudChat", RGBColor(196, 60, 30)),
    (
        "nginx",
        "Nginx proxy_pass, unbuffered",
        RGBColor(30, 110, 60),
    ),
    ("none", "no proxy", RGBColor(120, 120, 120)),
    ("plain", "plain HTTP", RGBColor(196, 60, 30)),
    ("tls", "TLS to the provider", RGBColor(40, 80, 170)),
];

type Points = Vec<(f64, f64)>;
type Drawn<T = ()> = Result<T, Box<dyn Error>>;

/// A line of a chart: label, colour, points.
struct Line(&'static str, RGBColor, Points);

fn main() {
    let files: Vec<_> = std::env::args_os().skip(1).collect();
    let [input, folder] = files.as_slice() else {
        fail(USAGE)
    };
    if let Err(error) = run(Path::new(input), Path::new(folder)) {
        fail(&format!("plot: {error}"));
    }
}

fn run(input: &Path, folder: &Path) -> Drawn {
    let report: Value = serde_json::from_slice(&fs::read(input)?)?;
    let series = &report["series"];
    let machine = report["machine"].as_str().unwrap_or_default();
    delay(
        &lines(&series["delay"], pair),
        machine,
        &folder.join("delay.svg"),
    )?;
    memory(
        &lines(&series["pss"], pair),
        machine,
        &folder.join("memory.svg"),
    )?;
    cpu(
        &lines(&series["cpu"], numbered),
        machine,
        &folder.join("cpu.svg"),
    )?;
    storm(
        &lines(&series["storm"], pair),
        machine,
        &folder.join("storm.svg"),
    )
}

/// The lines that were measured; `point` reads one from its place and its JSON.
fn lines(series: &Value, point: fn(usize, &Value) -> Option<(f64, f64)>) -> Vec<Line> {
    let read = |name: &str| -> Option<Points> {
        let points = series[name].as_array()?.iter().enumerate();
        points.map(|(index, value)| point(index, value)).collect()
    };
    let known = LINES.iter();
    known
        .filter_map(|(name, label, colour)| Some(Line(label, *colour, read(name)?)))
        .filter(|line| !line.2.is_empty())
        .collect()
}

fn pair(_: usize, value: &Value) -> Option<(f64, f64)> {
    Some((value[0].as_f64()?, value[1].as_f64()?))
}

fn numbered(index: usize, value: &Value) -> Option<(f64, f64)> {
    Some((index as f64 + 1.0, value.as_f64()?))
}

/// Delay by percentile. The scale stretches the rare ones: 90 %, 99 %, 99.9 % stand equally far apart.
fn delay(lines: &[Line], machine: &str, file: &Path) -> Drawn {
    let nines = |percentile: f64| 1.0 / (1.0 - percentile / 100.0).max(1e-5);
    let lines = changed(lines, |(percentile, us)| {
        (nines(percentile), us.max(DELAY_US_MIN))
    });
    let axes = (
        (1.0..1e5).log_scale(),
        (DELAY_US_MIN..top(&lines)).log_scale(),
    );
    let text = Text {
        title: "Added delay per token: 200 streams × 50 tokens/s",
        x: "percentile of tokens",
        y: "µs more than the median without a proxy",
        machine,
    };
    let label = |nines: &f64| format!("{} %", round(100.0 - 100.0 / nines, 3));
    draw(&lines, axes, &text, (&label, &|us| round(*us, 0)), file)
}

fn memory(lines: &[Line], machine: &str, file: &Path) -> Drawn {
    let lines = changed(lines, |(streams, bytes)| {
        (streams, bytes / f64::from(1 << 20))
    });
    let text = Text {
        title: "Memory over the number of open streams, answers of 2 KB",
        x: "open streams",
        y: "PSS of the process, MiB",
        machine,
    };
    let axes = (0.0..right(&lines), 0.0..top(&lines));
    draw(
        &lines,
        axes,
        &text,
        (&|n| round(*n, 0), &|mib| round(*mib, 0)),
        file,
    )
}

fn cpu(lines: &[Line], machine: &str, file: &Path) -> Drawn {
    let text = Text {
        title: "CPU per forwarded token, round by round: 200 streams × 50 tokens/s",
        x: "round",
        y: "µs, user and system",
        machine,
    };
    // Also a single round needs some width.
    let axes = (0.5..right(lines) + 0.5, 0.0..top(lines));
    draw(
        lines,
        axes,
        &text,
        (&|n| round(*n, 1), &|us| round(*us, 0)),
        file,
    )
}

fn storm(lines: &[Line], machine: &str, file: &Path) -> Drawn {
    let lines = changed(lines, |(seconds, bytes)| {
        (seconds, bytes / f64::from(1 << 20))
    });
    let text = Text {
        title: "Memory through a storm of logins: 64 clients for 8 s, from second 3",
        x: "seconds",
        y: "PSS of the process, MiB",
        machine,
    };
    let axes = (0.0..right(&lines), 0.0..top(&lines));
    draw(
        &lines,
        axes,
        &text,
        (&|s| round(*s, 0), &|mib| round(*mib, 0)),
        file,
    )
}

fn changed(lines: &[Line], change: impl Fn((f64, f64)) -> (f64, f64)) -> Vec<Line> {
    let change = |line: &Line| {
        Line(
            line.0,
            line.1,
            line.2.iter().copied().map(&change).collect(),
        )
    };
    lines.iter().map(change).collect()
}

/// The largest value of any line, and some air above it.
fn top(lines: &[Line]) -> f64 {
    let all = lines.iter().flat_map(|line| &line.2);
    all.fold(DELAY_US_MIN, |most, point| most.max(point.1)) * 1.1
}

fn right(lines: &[Line]) -> f64 {
    let all = lines.iter().flat_map(|line| &line.2);
    all.fold(1.0, |most, point| most.max(point.0))
}

/// With at most so many places, and none for nothing.
fn round(value: f64, places: usize) -> String {
    let text = format!("{value:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// What stands around a chart.
struct Text<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
    machine: &'a str,
}

/// How the values of both axes are written.
type Labels<'a> = (&'a dyn Fn(&f64) -> String, &'a dyn Fn(&f64) -> String);

/// Draws the lines with a dot at each point, if there are few; nothing when there is no line.
fn draw<X, Y>(
    lines: &[Line],
    (x, y): (X, Y),
    text: &Text<'_>,
    labels: Labels<'_>,
    file: &Path,
) -> Drawn
where
    X: AsRangedCoord<Value = f64, CoordDescType: ValueFormatter<f64>>,
    Y: AsRangedCoord<Value = f64, CoordDescType: ValueFormatter<f64>>,
{
    if lines.is_empty() {
        return Ok(());
    }
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (area, foot) = area.split_vertically(SIZE.1 - 20);
    let small = ("sans-serif", 11).into_font().color(&BLACK.mix(0.6));
    foot.draw(&plotters::element::Text::new(
        text.machine.to_owned(),
        (12, 2),
        small,
    ))?;
    let mut chart = ChartBuilder::on(&area)
        .caption(text.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(text.x)
        .y_desc(text.y)
        .x_label_formatter(labels.0)
        .y_label_formatter(labels.1)
        .draw()?;
    for Line(label, colour, points) in lines {
        let radius = if points.len() > 40 { 0 } else { 3 };
        let style = colour.stroke_width(2);
        let series = LineSeries::new(points.iter().copied(), style).point_size(radius);
        let legend = *colour;
        chart
            .draw_series(series)?
            .label(*label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], legend.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}
