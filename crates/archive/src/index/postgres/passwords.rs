//! Passwords that are not part of the address: from the variable PGPASSWORD, or from a file, as psql finds them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where passwords are looked up.
#[derive(Clone)]
pub(crate) struct Passwords {
    file: Option<PathBuf>,
}

impl Passwords {
    /// `file` is the parameter `passfile`. Without it, PGPASSFILE names the file, or it is `~/.pgpass`.
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        let named = file.or_else(|| std::env::var_os("PGPASSFILE").map(PathBuf::from));
        Self { file: named.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".pgpass"))) }
    }

    /// The password for a host, port, database and user.
    pub(crate) fn find(&self, wanted: [&str; 4]) -> Option<String> {
        if let Some(password) = std::env::var("PGPASSWORD").ok().filter(|password| !password.is_empty()) {
            return Some(password);
        }
        let file = self.file.as_ref()?;
        let mode = file.metadata().ok().filter(std::fs::Metadata::is_file)?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!("passwords in {} are not used, because others can read it: chmod 600", file.display());
            return None;
        }
        find_in(&std::fs::read_to_string(file).ok()?, wanted)
    }
}

/// The password of the first line that matches. A field is a value or `*`; a colon or backslash in it has a backslash before
/// it.
fn find_in(text: &str, wanted: [&str; 4]) -> Option<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(fields).find_map(|fields| {
        let (password, keys) = fields.split_last()?;
        let is_match = keys.len() == 4 && keys.iter().zip(wanted).all(|(key, wanted)| key == "*" || key == wanted);
        is_match.then(|| password.clone())
    })
}

fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut characters) = (vec![String::new()], line.chars());
    while let Some(character) = characters.next() {
        match character {
            // The password is the rest of the line.
            ':' if fields.len() < 5 => fields.push(String::new()),
            _ => {
                let character = if character == '\\' { characters.next().unwrap_or('\\') } else { character };
                if let Some(field) = fields.last_mut() {
                    field.push(character);
                }
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_line_has_the_password() {
        let text = "# comment\nother:5432:d:u:no\nh:5432:d:u:a\\:b\\\\c:d\n*:*:*:u:any\n*:*:*\n";
        assert_eq!(find_in(text, ["h", "5432", "d", "u"]).as_deref(), Some("a:b\\c:d"));
        assert_eq!(find_in(text, ["h", "5433", "d", "u"]).as_deref(), Some("any"));
        assert_eq!(find_in(text, ["h", "5433", "d", "v"]), None);
    }
}
