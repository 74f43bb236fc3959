//! `groundling settings`: prints the schema and the defaults of the settings.

use crate::args::SettingsArgs;
use crate::exit::Outcome;
use crate::settings::reference;
use crate::stdout;

pub(crate) fn run(args: &SettingsArgs) -> anyhow::Result<Outcome> {
    let text = if args.schema {
        serde_json::to_string_pretty(&reference::schema())? + "\n"
    } else if args.defaults {
        reference::toml()?
    } else {
        reference::markdown()?
    };
    stdout::write(format_args!("{text}"))?;
    Ok(Outcome::Done)
}
