//! `groundling check`: reports every problem of a settings file.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::args::{CheckArgs, Format};
use crate::exit::{Misuse, Outcome};
use crate::settings::{DEFAULT_FILE, check, read_file};
use crate::stderr::escape_control;
use crate::stdout;

pub(crate) fn run(args: &CheckArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let is_named = |file: &&Path| !file.as_os_str().is_empty();
    let file = args.file.as_deref().or(settings).filter(is_named).map_or_else(|| DEFAULT_FILE.into(), PathBuf::from);
    let text = read_file(&file).with_context(|| format!("cannot read the settings file {}", file.display()));
    let problems = check::problems(&file, &text.map_err(Misuse)?, std::env::vars_os())?;
    for problem in &problems {
        match args.format {
            Format::Text => stdout::write_line(format_args!("{}", escape_control(&problem.to_string())))?,
            Format::Json => stdout::write_json(problem)?,
        }
    }
    if problems.is_empty() && args.format == Format::Text {
        stdout::write_line(format_args!("{}: no problems", escape_control(&file.display().to_string())))?;
    }
    Ok(if problems.is_empty() { Outcome::Done } else { Outcome::PartlyFailed })
}
