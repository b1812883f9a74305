//! Draws what `scripts/bench.sh --svg` has measured: for each row the ratio of remora to the kernel with its interval and
//! its least and most. Rows in which less is better are turned over, so that right of the line is better everywhere.

use std::fs;
use std::path::Path;

use plotters::prelude::*;

use crate::Failure;

/// Height of a row in pixels.
const ROW: u32 = 22;

/// A row of `report.py --points`, turned so that more is better.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    name: String,
    median: f64,
    interval: (f64, f64),
    all: (f64, f64),
}

fn parse(line: &str) -> Result<Row, Failure> {
    let mut fields = line.split('\t');
    let mut next = || fields.next().ok_or_else(|| format!("too few fields: {line:?}"));
    let (name, better) = (next()?.to_owned(), next()?);
    let lower = better == "lower";
    let mut number = || -> Result<f64, Failure> {
        let value: f64 = next()?.parse()?;
        if value > 0.0 { Ok(if lower { 1.0 / value } else { value }) } else { Err("a ratio is above zero".into()) }
    };
    let (median, low, high, least, most) = (number()?, number()?, number()?, number()?, number()?);
    let span = |a: f64, b: f64| (a.min(b), a.max(b));
    Ok(Row { name, median, interval: span(low, high), all: span(least, most) })
}

/// Reads the rows in `points` and writes the picture.
pub fn draw(points: &Path, out: &Path) -> Result<(), Failure> {
    let rows = fs::read_to_string(points)?.lines().map(parse).collect::<Result<Vec<_>, _>>()?;
    let count = i32::try_from(rows.len())?;
    let area = SVGBackend::new(out, (1_000, 100 + ROW * u32::try_from(rows.len())?)).into_drawing_area();
    area.fill(&WHITE)?;
    let least = rows.iter().fold(0.5_f64, |least, row| least.min(row.all.0)) * 0.9;
    let most = rows.iter().fold(2.0_f64, |most, row| most.max(row.all.1)) * 1.1;
    let mut chart = ChartBuilder::on(&area)
        .caption("remora against the kernel; right of 1 is better", ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(35)
        .y_label_area_size(160)
        .build_cartesian_2d((least..most).log_scale(), -1..count)?;
    let name = |at: &i32| {
        // The first row stands on top.
        let index = usize::try_from(count - 1 - at).ok();
        index.and_then(|index| rows.get(index)).map_or_else(String::new, |row| row.name.clone())
    };
    chart
        .configure_mesh()
        .y_labels(rows.len() + 1)
        .y_label_formatter(&name)
        .x_desc("times as good (median, 95 % interval of it, least and most)")
        .draw()?;
    chart.draw_series([PathElement::new([(1.0, -1), (1.0, count)], BLACK.stroke_width(2))])?;
    for (index, row) in rows.iter().enumerate() {
        let at = count - 1 - i32::try_from(index)?;
        let color = if row.interval.0 >= 1.0 {
            RGBColor(40, 140, 60)
        } else if row.interval.1 < 1.0 {
            RGBColor(200, 40, 40)
        } else {
            RGBColor(70, 90, 150)
        };
        let line = |(from, to): (f64, f64), width| PathElement::new([(from, at), (to, at)], color.stroke_width(width));
        chart.draw_series([line(row.all, 1), line(row.interval, 5)])?;
        chart.draw_series([Circle::new((row.median, at), 5, color.filled())])?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_in_which_less_is_better_are_turned_over() {
        let row = parse("rtt\tlower\t0.5\t0.25\t1.0\t0.2\t2.0").expect("a row");
        let wanted = Row { name: "rtt".to_owned(), median: 2.0, interval: (1.0, 4.0), all: (0.5, 5.0) };
        assert_eq!(row, wanted);
        assert!(parse("rtt\tlower\t0.5").is_err());
        assert!(parse("rtt\thigher\t0\t1\t1\t1\t1").is_err());
    }
}
