//! `cloudchat doctor`: looks for what breaks a server in practice.

use clap::Args;

use super::{Failure, Settings, load, place, print};
use crate::doctor;

#[derive(Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    settings: Settings,
    /// Where the server is published, such as https://example.com/cloudchat: asks one chat, which it
    /// reads for up to 20 s, and uses up this host's registrations of the hour
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// One line of JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let (config, budget) = load(&args.settings)?;
    place::name(&config.store);
    let report = doctor::run(&config, &budget, args.url.as_deref());
    let report = report.map_err(|mistake| Failure::Mistakes(vec![mistake]))?;
    print(&match args.json {
        true => report.json(),
        false => report.text(),
    })?;
    match report.findings.is_empty() {
        true => Ok(()),
        false => Err(Failure::Found),
    }
}
