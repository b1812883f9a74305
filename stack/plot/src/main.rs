//! `remora-plot`: runs one connection over a virtual link in virtual time and draws congestion window, slow start
//! threshold, segments in flight and smoothed round-trip time over time as an SVG file; or draws what `bench.sh` measured.

mod bench;

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use plotters::prelude::*;
use remora_stack::io::Collect;
use remora_stack::settings::Settings;
use remora_stack::socket::options::{OptionName, OptionValue};
use remora_stack::socket::protocol::{AddressFamily, ReceiveFlags, SendArguments, SocketId, SocketType};
use remora_stack::testkit::{Conditions, Network, address, interface};

/// The tools' errors are shown, not handled.
type Failure = Box<dyn Error>;

const PORT: u16 = 80;

#[derive(Parser)]
#[command(about = "Plots a connection over a virtual link as SVG")]
struct Arguments {
    /// Congestion control: cubic, reno, bbr, dctcp.
    #[arg(long, default_value = "cubic")]
    algorithm: String,
    /// Rate of the link in Mbit/s.
    #[arg(long, default_value_t = 20)]
    rate: u64,
    /// Round-trip time in milliseconds.
    #[arg(long, default_value_t = 40)]
    rtt: u64,
    /// Queue in milliseconds at the link's rate.
    #[arg(long, default_value_t = 40)]
    queue: u64,
    /// Frames lost, in percent.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Seconds of virtual time.
    #[arg(long, default_value_t = 20)]
    time: u64,
    /// Seed of the losses.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draw what `bench.sh --svg` has written to this file, and no connection.
    #[arg(long)]
    bench: Option<PathBuf>,
    /// The file to write.
    #[arg(long, default_value = "connection.svg")]
    out: PathBuf,
}

/// One look at the connection.
#[derive(Clone, Copy)]
struct Look {
    at: f64,
    cwnd: u32,
    ssthresh: u32,
    in_flight: u32,
    srtt: f64,
}

/// A field of `struct tcp_info`.
fn field(info: &[u8], at: usize) -> u32 {
    info.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn look(network: &mut Network, socket: SocketId, at: f64) -> Result<Look, Failure> {
    let now = network.now;
    let value = network.stack(0).option(now, socket, OptionName::Info).map_err(|error| format!("{error:?}"))?;
    let OptionValue::Bytes(info) = value else { return Err("TCP_INFO is no structure".into()) };
    // tcpi_unacked, less tcpi_sacked and tcpi_lost, and tcpi_retrans.
    let gone = field(&info, 28).saturating_add(field(&info, 32));
    Ok(Look {
        at,
        cwnd: field(&info, 80),
        ssthresh: field(&info, 76),
        in_flight: field(&info, 24).saturating_sub(gone) + field(&info, 36),
        srtt: f64::from(field(&info, 68)) / 1_000.0,
    })
}

fn run(arguments: &Arguments) -> Result<Vec<Look>, Failure> {
    let rate = arguments.rate.saturating_mul(125_000);
    let mut network = Network::new(arguments.seed);
    network.conditions = Conditions {
        rate,
        queue: rate.saturating_mul(arguments.queue) / 1_000,
        latency: Duration::from_micros(arguments.rtt.saturating_mul(500)),
        loss: (arguments.loss * 10_000.0) as u32,
        ..Conditions::default()
    };
    for host in 1..=2 {
        let mut settings = Settings::default();
        let name = "net.ipv4.tcp_congestion_control";
        settings.set(name, &arguments.algorithm).map_err(|error| error.to_string())?;
        network.add_with(&interface(host), settings);
    }
    let began = network.now;
    let to = SocketAddr::new(address(2), PORT);
    let stream = |network: &mut Network, host: usize| {
        network
            .stack(host)
            .socket(began, AddressFamily::Inet, SocketType::Stream, 6)
            .map_err(|error| format!("{error:?}"))
    };
    let listening = stream(&mut network, 1)?;
    network.stack(1).bind(began, listening, to).map_err(|error| format!("{error:?}"))?;
    network.stack(1).listen(began, listening, 1).map_err(|error| format!("{error:?}"))?;
    let client = stream(&mut network, 0)?;
    // It is under way: the answer comes with the first segments.
    let _ = network.stack(0).connect(began, client, to);
    let (mut server, mut looks) = (None, Vec::new());
    let end = began + Duration::from_secs(arguments.time);
    let piece = vec![0; 65_536];
    while network.now < end && network.step() {
        let now = network.now;
        server = server.or_else(|| network.stack(1).accept(now, listening).ok().map(|(socket, _)| socket));
        while network.stack(0).send(now, client, &mut piece.as_slice(), &SendArguments::default()).is_ok() {}
        if let Some(server) = server {
            // Nothing there is no error here.
            let _ = network.stack(1).receive(now, server, &mut Collect::new(1 << 20), ReceiveFlags::empty());
        }
        let at = now.since(began).as_secs_f64();
        if looks.last().is_none_or(|last: &Look| at - last.at >= 0.01) {
            looks.push(look(&mut network, client, at)?);
        }
    }
    Ok(looks)
}

fn draw(arguments: &Arguments, looks: &[Look], out: &Path) -> Result<(), Failure> {
    let area = SVGBackend::new(out, (1_200, 800)).into_drawing_area();
    area.fill(&WHITE)?;
    let (upper, lower) = area.split_vertically(520);
    let end = looks.last().map_or(1.0, |look| look.at);
    let most = looks.iter().map(|look| look.cwnd.max(look.in_flight)).max().unwrap_or(1);
    let caption = format!(
        "{}, {} Mbit/s, {} ms, queue {} ms, loss {} %",
        arguments.algorithm, arguments.rate, arguments.rtt, arguments.queue, arguments.loss
    );
    let mut chart = ChartBuilder::on(&upper)
        .caption(caption, ("sans-serif", 20))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..end, 0_u32..most + most / 10 + 1)?;
    chart.configure_mesh().y_desc("segments").draw()?;
    type Pick = fn(&Look) -> u32;
    let lines: [(&str, RGBColor, Pick); 3] = [
        ("in flight", RGBColor(150, 190, 230), |look| look.in_flight),
        ("cwnd", RGBColor(200, 40, 40), |look| look.cwnd),
        ("ssthresh", RGBColor(40, 140, 60), |look| look.ssthresh),
    ];
    for (name, color, pick) in lines {
        // A threshold that is not known yet lies beyond the picture.
        let points = looks.iter().map(|look| (look.at, pick(look).min(most + most / 10)));
        chart
            .draw_series(LineSeries::new(points, color))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    let slowest = looks.iter().map(|look| look.srtt).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(&lower)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..end, 0.0..slowest * 1.1)?;
    chart.configure_mesh().x_desc("seconds").y_desc("srtt, ms").draw()?;
    chart.draw_series(LineSeries::new(looks.iter().map(|look| (look.at, look.srtt)), BLUE))?;
    area.present()?;
    Ok(())
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    if let Some(points) = &arguments.bench {
        return bench::draw(points, &arguments.out);
    }
    let looks = run(&arguments)?;
    draw(&arguments, &looks, &arguments.out)
}
