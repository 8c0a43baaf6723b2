//! `${NAME}` in the strings of a pipeline file.

/// Why the variables of a string could not be put in. Shows names, never values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VariableError {
    #[error("the variable {name} is not set")]
    Missing { name: String },
    #[error(r#""${{" must be followed by the name of a variable and "}}"; write "$${{" for a plain "${{""#)]
    Malformed,
}

/// Puts the values of variables in the place of `${NAME}`; `$${` stands for a plain `${`. What a variable holds is
/// taken as it is.
pub(crate) fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, VariableError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        let after = &from[2..];
        if let Some(plain) = before.strip_suffix('$') {
            out.push_str(plain);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let (name, behind) = after.split_once('}').ok_or(VariableError::Malformed)?;
        if !is_name(name) {
            return Err(VariableError::Malformed);
        }
        out.push_str(&lookup(name).ok_or_else(|| VariableError::Missing { name: name.to_owned() })?);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, VariableError>) {
        let lookup = |name: &str| match name {
            "USER" => Some("app".to_owned()),
            "_P4SS" => Some("a${USER}$${b".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        assert_eq!(expand(text, &lookup), expected.map(str::to_owned), "{text}");
    }

    #[test]
    fn variables_are_put_in_once() {
        check("", Ok(""));
        check("postgres://${USER}:${_P4SS}@h/d", Ok("postgres://app:a${USER}$${b@h/d"));
        check("${EMPTY}${USER}", Ok("app"));
        check("$USER $ {USER} $$ ü$", Ok("$USER $ {USER} $$ ü$"));
    }

    #[test]
    fn a_doubled_dollar_is_a_plain_one() {
        check("$${USER}", Ok("${USER}"));
        check("$${${USER}}", Ok("${app}"));
        check("$$${USER}", Ok("$${USER}"));
    }

    #[test]
    fn what_is_missing_is_named_and_what_is_malformed_refused() {
        check("${HOME_}", Err(VariableError::Missing { name: "HOME_".into() }));
        for text in ["${", "${USER", "${}", "${1A}", "${A B}", "${ä}", "${${USER}}", "${A:-b}"] {
            check(text, Err(VariableError::Malformed));
        }
    }
}
