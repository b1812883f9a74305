//! The configuration as rows of text, each with its source, for `remora config`.

use super::{Config, Source, Value};
use std::fmt::Display;

/// One value as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The variable's or the setting's name.
    pub name: &'static str,
    /// The value; `None` when there is none.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: Source,
}

fn row<T>(name: &'static str, value: Option<&Value<T>>, text: impl FnOnce(&T) -> String) -> Row {
    match value {
        Some(Value { value, source }) => Row { name, value: Some(text(value)), source: source.clone() },
        None => Row { name, value: None, source: Source::Default },
    }
}

fn text(value: &impl Display) -> String {
    value.to_string()
}

impl Config {
    /// Every value, the variables first and then the settings.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = vec![
            row("REMORA_IFACE", self.interface.as_ref(), text),
            row("REMORA_ADDR", self.address.as_ref(), text),
            row("REMORA_GATEWAY", self.gateway.as_ref(), text),
            row("REMORA_MAC", self.mac.as_ref(), text),
            row("REMORA_MTU", self.mtu.as_ref(), text),
            row("REMORA_DEVICE", Some(&self.device), text),
            row("REMORA_LOOPBACK", Some(&self.loopback), text),
            row("REMORA_DNS", Some(&self.names), text),
            row("REMORA_INTERFACES", Some(&self.interfaces), text),
            row("REMORA_LOG", Some(&self.log), |level| level.as_str().to_ascii_lowercase()),
            row("REMORA_LOG_FILE", self.log_file.as_ref(), |path| path.display().to_string()),
            row("REMORA_PCAP", self.pcap.as_ref(), |path| path.display().to_string()),
            row("REMORA_STRICT", Some(&self.strict), |strict| u8::from(*strict).to_string()),
            row("REMORA_RULES", Some(&self.rules).filter(|rules| !rules.value.is_empty()), text),
            row("REMORA_EXPLAIN", Some(&self.explain), |explain| u8::from(*explain).to_string()),
            row("REMORA_SUMMARY", Some(&self.summary), |summary| u8::from(*summary).to_string()),
            row("REMORA_COUNTERS", Some(&self.counters), |counters| u8::from(*counters).to_string()),
            row("REMORA_DEEP", Some(&self.deep), |deep| u8::from(*deep).to_string()),
        ];
        rows.extend(self.settings.each().map(|(name, value)| {
            let source = self.setting_sources.iter().find(|(known, _)| *known == name);
            Row { name, value: Some(value), source: source.map_or(Source::Default, |(_, source)| source.clone()) }
        }));
        rows
    }
}
