//! The two forms of a connection string, taken apart: a URL, and key=value pairs.

use crate::ConnectionStringError;
use crate::parameters::named;

/// Names of parameters with their values, as they were given; of two with one name the later counts.
pub(crate) type Pairs = Vec<(&'static str, String)>;

const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];

/// Takes the text apart. Empty values count as not given.
pub(crate) fn parse(text: &str) -> Result<Pairs, ConnectionStringError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(ConnectionStringError::new(
            "is empty; give a URL (postgresql://user@host/database) or key=value pairs (host=… dbname=…)",
        ));
    }
    let mut pairs = Pairs::new();
    match SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)) {
        Some(rest) => url(rest, &mut pairs)?,
        None => key_values(text, &mut pairs)?,
    }
    pairs.retain(|(_, value)| !value.is_empty());
    Ok(pairs)
}

fn url(text: &str, pairs: &mut Pairs) -> Result<(), ConnectionStringError> {
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    let (authority, database) = text.split_once('/').unwrap_or((text, ""));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (user, hosts),
        None => ("", authority),
    };
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    pairs.push(("user", decoded(user)?));
    pairs.push(("password", decoded(password)?));
    pairs.push(("dbname", decoded(database)?));
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = host_and_port(host)?;
        names.push(decoded(name)?);
        ports.push(port);
    }
    if names.iter().any(|name| !name.is_empty()) {
        pairs.push(("host", names.join(",")));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        pairs.push(("port", ports.join(",")));
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| ConnectionStringError::new("has a parameter without a value behind its \"?\""))?;
        let (name, value) = (decoded(name)?, decoded(value)?);
        // What drivers of other languages write.
        if name == "ssl" && value == "true" {
            pairs.push(("sslmode", "require".to_owned()));
        } else {
            pairs.push((named(&name)?.name, value));
        }
    }
    Ok(())
}

/// `name`, `name:port`, `[IPv6 address]:port`.
fn host_and_port(text: &str) -> Result<(&str, &str), ConnectionStringError> {
    let wrong = || ConnectionStringError::new("has \"[\" in a host without its \"]\"");
    if let Some(rest) = text.strip_prefix('[') {
        let (name, rest) = rest.split_once(']').ok_or_else(wrong)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((name, port)),
            None if rest.is_empty() => Ok((name, "")),
            None => Err(wrong()),
        };
    }
    Ok(text.split_once(':').unwrap_or((text, "")))
}

/// With `%xx` replaced by what it stands for.
fn decoded(text: &str) -> Result<String, ConnectionStringError> {
    let wrong = || {
        ConnectionStringError::new(
            "is not a valid URL: each \"%\" needs two hexadecimal digits (%25 for \"%\" itself)",
        )
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| wrong())?);
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    if text.contains('\0') { Err(wrong()) } else { Ok(text) }
}

/// `key = value`, `key = 'va\'lue'`, with white space between the pairs.
fn key_values(text: &str, pairs: &mut Pairs) -> Result<(), ConnectionStringError> {
    let wrong = |reason: &str| {
        ConnectionStringError::new(format!(
            "is no URL (postgresql://user:password@host:port/database), and as key=value pairs {reason}"
        ))
    };
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(());
        }
        let Some((name, behind)) = rest.split_once('=') else {
            return Err(wrong("it has something without a \"=\""));
        };
        let name = name.trim_end();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(wrong("it has something without a \"=\"; a value with spaces needs quotes ('…')"));
        }
        let name = named(name)?.name;
        let (value, behind) = value(behind.trim_start()).ok_or_else(|| {
            wrong("it has a quote or a backslash without its end; write \\' and \\\\ for them in a value")
        })?;
        pairs.push((name, value));
        rest = behind;
    }
}

fn value(text: &str) -> Option<(String, &str)> {
    let (is_quoted, text) = match text.strip_prefix('\'') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.push(characters.next()?.1),
            '\'' if is_quoted => return Some((value, &text[at + 1..])),
            character if !is_quoted && character.is_whitespace() => return Some((value, &text[at..])),
            character => value.push(character),
        }
    }
    (!is_quoted).then_some((value, ""))
}

/// The pairs as key=value text, which [`parse`] reads back.
pub(crate) fn write(pairs: &Pairs) -> String {
    let quoted = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
    let pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{name}='{}'", quoted(value))).collect();
    pairs.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, &str)]) {
        let pairs = parse(text).unwrap();
        let shown: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(shown, expected, "{text}");
        if !pairs.is_empty() {
            assert_eq!(parse(&write(&pairs)).unwrap(), pairs, "{text}");
        }
    }

    #[test]
    fn urls() {
        check("postgresql://", &[]);
        check("postgres://h", &[("host", "h")]);
        check(
            "postgresql://u%40x:p%3A%2F@h1:1,h2,[::1]:3/d%20b?sslmode=require&options=-c%20a%3Db",
            &[
                ("user", "u@x"),
                ("password", "p:/"),
                ("dbname", "d b"),
                ("host", "h1,h2,::1"),
                ("port", "1,,3"),
                ("sslmode", "require"),
                ("options", "-c a=b"),
            ],
        );
        check("postgresql://%2Frun%2Fpg/d?user=u", &[("dbname", "d"), ("host", "/run/pg"), ("user", "u")]);
        check("postgresql://u:a@b@h", &[("user", "u"), ("password", "a@b"), ("host", "h")]);
        check("postgresql://h?ssl=true", &[("host", "h"), ("sslmode", "require")]);
    }

    #[test]
    fn pairs() {
        check("host=h  dbname = d", &[("host", "h"), ("dbname", "d")]);
        check(r"password='a \'b\\ c' user=x\ y", &[("password", r"a 'b\ c"), ("user", "x y")]);
        check("password='' host=h", &[("host", "h")]);
        check("host=h password=a=b", &[("host", "h"), ("password", "a=b")]);
    }

    #[test]
    fn what_is_malformed_is_refused_without_being_shown() {
        for text in [
            "",
            "canary",
            "host=h canary",
            "host=h password=canary canary",
            "host=h password='canary",
            "host=h password=canary\\",
            "canary=1",
            "postgresql://u:canary%4@h",
            "postgresql://u:%ffcanary@h",
            "postgresql://u:canary@[::1/d",
            "postgresql://h/d?canary",
            "postgresql://h/d?canary=1",
        ] {
            let error = parse(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("canary"), "{text}: {error}");
        }
        let error = parse("host=h sslrotcert=/x").unwrap_err();
        assert_eq!(error.reason, "has a parameter that does not exist; did you mean sslrootcert?");
    }

    #[test]
    fn what_is_not_supported_says_what_to_do() {
        let error = parse("postgresql://h/?requirepeer=canary").unwrap_err();
        assert_eq!(error.parameter, Some("requirepeer"));
        assert_eq!(
            error.reason,
            "has requirepeer, which is not supported: who runs the server behind a socket is not asked; protect the \
             socket's folder"
        );
    }
}
