//! The password file, `~/.pgpass`: a line per server, `host:port:database:user:password`.

use std::fs;
use std::path::Path;

use secrecy::SecretString;
use tokio_postgres::config::Host;

use crate::ConnectError;
use crate::connection_string::Target;
use crate::tls::{file_error, refuse_readable};

const PARAMETER: &str = "passfile";

/// The password for a target, from the first line that fits. Blocks for as long as reading takes.
pub(crate) fn look_up(
    path: &Path,
    target: &Target,
    database: Option<&str>,
    user: Option<&str>,
) -> Result<Option<SecretString>, ConnectError> {
    refuse_readable(PARAMETER, path)?;
    let text = fs::read_to_string(path)
        .map_err(|error| file_error(PARAMETER, path, format!("can't be read: {error}")))?;
    Ok(find(&text, target, database, user).map(SecretString::from))
}

fn find(text: &str, target: &Target, database: Option<&str>, user: Option<&str>) -> Option<String> {
    // A socket counts as this machine, whatever its folder; the folder itself may be named, too.
    let hosts: Vec<String> = match &target.host {
        Host::Tcp(name) => vec![name.clone()],
        #[cfg(unix)]
        Host::Unix(path) => vec!["localhost".to_owned(), path.display().to_string()],
    };
    let port = target.port.to_string();
    let fits = |pattern: &Field, value: Option<&str>| {
        pattern.is_wildcard || value.is_some_and(|value| value == pattern.text)
    };
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let [host, its_port, its_database, its_user, password] = fields(line)?;
        let found = hosts.iter().any(|name| fits(&host, Some(name)))
            && fits(&its_port, Some(&port))
            // Without a name the database is called as the user.
            && fits(&its_database, database.or(user))
            && fits(&its_user, user);
        (found && !password.text.is_empty()).then_some(password.text)
    })
}

struct Field {
    text: String,
    is_wildcard: bool,
}

/// The five fields of a line; a backslash takes the meaning from a colon or a backslash. The last goes to the end.
fn fields(line: &str) -> Option<[Field; 5]> {
    let mut fields = Vec::with_capacity(5);
    let (mut text, mut raw) = (String::new(), String::new());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == ':' && fields.len() < 4 {
            let is_wildcard = raw == "*";
            fields.push(Field { text: std::mem::take(&mut text), is_wildcard });
            raw.clear();
            continue;
        }
        raw.push(character);
        let next = if character == '\\' { characters.next() } else { None };
        raw.extend(next);
        text.push(next.unwrap_or(character));
    }
    fields.push(Field { text, is_wildcard: false });
    fields.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# db:5432:shop:app:comment\n\
        db:5432:shop:app:exact\n\
        db:*:*:app:any database\n\
        \\*:5432:shop:app:a host called *\n\
        fe80\\:\\:1:5432:*:app:with\\:colon\\\\and:more\n\
        localhost:*:*:app:socket\n\
        short:5432\n\
        *:*:*:other:last\n";

    fn check(host: Host, port: u16, database: Option<&str>, user: Option<&str>, expected: Option<&str>) {
        let target = Target { host, address: None, port };
        assert_eq!(find(FILE, &target, database, user).as_deref(), expected, "{target}");
    }

    #[test]
    fn the_first_line_that_fits_counts() {
        let tcp = |name: &str| Host::Tcp(name.to_owned());
        check(tcp("db"), 5432, Some("shop"), Some("app"), Some("exact"));
        check(tcp("db"), 5433, Some("shop"), Some("app"), Some("any database"));
        check(tcp("db"), 5432, None, Some("app"), Some("any database"));
        check(tcp("*"), 5432, Some("shop"), Some("app"), Some("a host called *"));
        check(tcp("fe80::1"), 5432, Some("x"), Some("app"), Some("with:colon\\and:more"));
        check(Host::Unix("/run/pg".into()), 1, Some("x"), Some("app"), Some("socket"));
        check(tcp("elsewhere"), 1, Some("x"), Some("other"), Some("last"));
        check(tcp("elsewhere"), 1, Some("x"), Some("app"), None);
        check(tcp("elsewhere"), 1, Some("x"), None, None);
    }
}
