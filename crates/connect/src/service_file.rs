//! The service file: sections with parameters of a connection string.

use crate::ConnectionStringError;
use crate::parameters::named;
use crate::parse::Pairs;

/// The parameters of a service; `None` where the file has no such section. `file` is how to call it.
pub(crate) fn find(text: &str, service: &str, file: &str) -> Result<Option<Pairs>, ConnectionStringError> {
    let mut lines = text.lines().map(str::trim).enumerate();
    let header =
        |line: &str| line.strip_prefix('[').and_then(|line| line.strip_suffix(']')).map(str::to_owned);
    if !lines.by_ref().any(|(_, line)| header(line).as_deref() == Some(service)) {
        return Ok(None);
    }
    let mut pairs = Pairs::new();
    for (index, line) in lines {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if header(line).is_some() {
            break;
        }
        let refuse = |reason: &str| {
            ConnectionStringError::of(
                "service",
                format!("names a service whose line {} in {file} {reason}", index + 1),
            )
        };
        if line.starts_with("ldap:") || line.starts_with("ldaps:") {
            return Err(refuse(
                "asks an LDAP server, which is not supported; write the parameters themselves",
            ));
        }
        let (name, value) = line.split_once('=').ok_or_else(|| refuse("has no \"=\""))?;
        let parameter = named(name.trim()).map_err(|error| refuse(&error.reason))?;
        if parameter.name == "service" {
            return Err(refuse("names a service again"));
        }
        // The first counts, as in libpq.
        if !pairs.iter().any(|(name, _)| *name == parameter.name) {
            pairs.push((parameter.name, value.trim().to_owned()));
        }
    }
    pairs.retain(|(_, value)| !value.is_empty());
    Ok(Some(pairs))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# servers\n[other]\nhost=wrong\n\n[shop]\nhost = db\n# the rest\nport=6432\nhost=second\n[more]\nuser=x\n\
                        [bad]\nhots=canary\n[ldap]\nldap://canary\n[plain]\ncanary\n[again]\nservice=shop\n";

    #[test]
    fn a_service_has_the_lines_of_its_section() {
        let found = find(FILE, "shop", "f").unwrap().unwrap();
        assert_eq!(found, [("host", "db".to_owned()), ("port", "6432".to_owned())]);
        assert_eq!(find(FILE, "none", "f").unwrap(), None);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (service, expected) in [
            ("bad", "line 13 in f has a parameter that does not exist; did you mean host?"),
            ("ldap", "line 15 in f asks an LDAP server"),
            ("plain", "line 17 in f has no \"=\""),
            ("again", "line 19 in f names a service again"),
        ] {
            let error = find(FILE, service, "f").unwrap_err();
            assert!(error.reason.contains(expected) && !error.reason.contains("canary"), "{error}");
        }
    }
}
