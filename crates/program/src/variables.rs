//! Variables of a program's environment.

/// The variable that holds the event as JSON.
pub const EVENT_VARIABLE: &str = "PIPELINE_EVENT";

/// Linux takes no variable, name and `=` and the NUL at its end included, of more bytes than this (`MAX_ARG_STRLEN`).
const MAX_VARIABLE_BYTES: usize = 128 * 1024;

/// The event as the value of [`EVENT_VARIABLE`]; nothing when it is too large for a variable.
#[must_use]
pub fn event_variable(event: &str) -> Option<&str> {
    let bytes = EVENT_VARIABLE.len() + "=\0".len() + event.len();
    (bytes <= MAX_VARIABLE_BYTES).then_some(event)
}

/// Whether a variable can have this name, and a user may set it.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && text != EVENT_VARIABLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_letters_digits_and_lines() {
        assert!(["A", "_a1", "API_KEY"].into_iter().all(is_name));
        assert!(!["", "1A", "A-B", "A=", "ä", EVENT_VARIABLE].into_iter().any(is_name));
    }

    #[test]
    fn an_event_fits_up_to_the_systems_limit() {
        let most = "x".repeat(MAX_VARIABLE_BYTES - EVENT_VARIABLE.len() - 2);
        assert_eq!(event_variable(&most), Some(&*most));
        assert_eq!(event_variable(&(most + "x")), None);
    }
}
