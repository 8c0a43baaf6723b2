//! What a link lets through: by table, operation, and conditions on fields. Pure.

use std::collections::HashMap;

use dapper_core::{Event, Operation, RawJson, glob};
use serde_json::value::RawValue;

/// The schema of a table that an event names without one.
const DEFAULT_SCHEMA: &str = "public";

/// The parts of an event that have fields, by the names that stand before the dot.
const SOURCES: [(&str, Source); 3] = [("new", Source::New), ("old", Source::Old), ("key", Source::Key)];

/// Lets an event through when all of it holds; the default lets everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    tables: Option<Vec<(String, String)>>,
    operations: Option<Vec<Operation>>,
    conditions: Vec<Condition>,
}

/// Something that must hold of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    source: Source,
    field: String,
    test: Test,
}

/// What must hold of a field. Null counts as not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// It has one of these values.
    In(Vec<Value>),
    /// It is there (`true`), or it is not.
    Exists(bool),
}

/// A value that a field is compared with.
///
/// A field's value is text, a number, or true or false; a list or an object equals nothing. Text is compared by its
/// characters, with what the field's value is written as where that is no text. Numbers are compared by what they are
/// worth, to the last digit, also with text that is a number, such as a `numeric` that a column of type `text` holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text, or true or false as they are written.
    Text(String),
    /// A number as it is written, such as `10.50`.
    Number(String),
}

/// The part of an event that holds a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The row after the change.
    New,
    /// The row before the change.
    Old,
    /// The key.
    Key,
}

/// Why a filter can't be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// A pattern is none of tables.
    #[error("the pattern {pattern:?} is none; write \"schema.table\", \"schema.*\" or \"table\"")]
    Pattern {
        /// The pattern.
        pattern: String,
    },
    /// A field has no place in an event.
    #[error("the field {field:?} must begin with new., old. or key.; did you mean {nearest:?}?")]
    Field {
        /// The field as it was given.
        field: String,
        /// The field that was probably meant.
        nearest: String,
    },
    /// What should be a number is none.
    #[error("{text:?} is no number that a field can have")]
    Number {
        /// The text.
        text: String,
    },
}

impl Filter {
    /// Lets through only events of these tables: patterns such as `public.orders` or `sales.*`, where one without a dot
    /// means the schema `public`.
    ///
    /// # Errors
    /// A pattern without a schema's or a table's name.
    pub fn with_tables<'p>(
        mut self,
        patterns: impl IntoIterator<Item = &'p str>,
    ) -> Result<Self, FilterError> {
        let patterns = patterns.into_iter().map(|pattern| {
            let (schema, table) = pattern.split_once('.').unwrap_or((DEFAULT_SCHEMA, pattern));
            if schema.is_empty() || table.is_empty() {
                return Err(FilterError::Pattern { pattern: pattern.to_owned() });
            }
            Ok((schema.to_owned(), table.to_owned()))
        });
        self.tables = Some(patterns.collect::<Result<_, _>>()?);
        Ok(self)
    }

    /// Lets through only these operations.
    #[must_use]
    pub fn with_operations(mut self, operations: Vec<Operation>) -> Self {
        self.operations = Some(operations);
        self
    }

    /// Lets through only what this holds of, too.
    #[must_use]
    pub fn with_condition(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    /// The parts of an event that it looks at.
    pub fn sources(&self) -> impl Iterator<Item = Source> {
        self.conditions.iter().map(|condition| condition.source)
    }

    /// Whether it lets everything through.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it lets the event through.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        self.operations.as_ref().is_none_or(|operations| operations.contains(&event.operation))
            && self.tables.as_ref().is_none_or(|tables| {
                let location = &*event.location;
                let (schema, table) = location.split_once('.').unwrap_or((DEFAULT_SCHEMA, location));
                tables.iter().any(|pattern| glob(&pattern.0, schema) && glob(&pattern.1, table))
            })
            && self.all_hold(event)
    }

    fn all_hold(&self, event: &Event) -> bool {
        // Each part is taken apart once, whatever is asked of it.
        let mut parts: [Option<Fields<'_>>; SOURCES.len()] = [const { None }; SOURCES.len()];
        self.conditions.iter().all(|condition| {
            let part = &mut parts[condition.source as usize];
            let fields = part.get_or_insert_with(|| fields(condition.source.of(event)));
            let value = fields.get(condition.field.as_str()).map(|value| value.get());
            condition.test.holds(value.filter(|value| *value != "null"))
        })
    }
}

type Fields<'e> = HashMap<String, &'e RawValue>;

/// The fields of a JSON object; none where there is no object.
fn fields(json: Option<&RawJson>) -> Fields<'_> {
    json.and_then(|json| serde_json::from_str(json.get()).ok()).unwrap_or_default()
}

impl Source {
    /// The name that stands before the dot.
    #[must_use]
    pub fn name(self) -> &'static str {
        SOURCES[self as usize].0
    }

    fn of(self, event: &Event) -> Option<&RawJson> {
        match self {
            Self::New => event.new.as_ref(),
            Self::Old => event.old.as_ref(),
            Self::Key => event.key.as_ref(),
        }
    }
}

impl Condition {
    /// A condition on a field such as `new.status`: what stands behind the first dot is the column's whole name.
    ///
    /// # Errors
    /// When the field does not begin with the name of a part of events.
    pub fn new(field: &str, test: Test) -> Result<Self, FilterError> {
        let (part, column) = field.split_once('.').unwrap_or(("", field));
        let source = SOURCES.iter().find(|(name, _)| *name == part);
        match source {
            Some(&(_, source)) if !column.is_empty() => Ok(Self { source, field: column.to_owned(), test }),
            _ => {
                let distance = |name: &str| strsim::damerau_levenshtein(name, &part.to_lowercase());
                let name = SOURCES.map(|(name, _)| name).into_iter().find(|name| distance(name) <= 1);
                let column = if column.is_empty() { "column" } else { column };
                let nearest = match name {
                    Some(name) => format!("{name}.{column}"),
                    None => format!("new.{}", if part.is_empty() { column } else { field }),
                };
                Err(FilterError::Field { field: field.to_owned(), nearest })
            }
        }
    }
}

impl Test {
    /// Whether it holds of a JSON value.
    fn holds(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (Self::Exists(wanted), value) => value.is_some() == *wanted,
            (Self::In(_), None) => false,
            (Self::In(values), Some(value)) => values.iter().any(|wanted| wanted.equals(value)),
        }
    }
}

impl Value {
    /// A number from its text.
    ///
    /// # Errors
    /// When it is none of JSON's.
    pub fn number(text: &str) -> Result<Self, FilterError> {
        match Decimal::parse(text) {
            Some(_) => Ok(Self::Number(text.to_owned())),
            None => Err(FilterError::Number { text: text.to_owned() }),
        }
    }

    fn equals(&self, json: &str) -> bool {
        if json.starts_with(['{', '[']) {
            return false;
        }
        let text = match serde_json::from_str::<String>(json) {
            Ok(text) => text,
            Err(_) => json.to_owned(),
        };
        match self {
            Self::Text(wanted) => *wanted == text,
            Self::Number(wanted) => {
                let wanted = Decimal::parse(wanted);
                wanted.is_some() && wanted == Decimal::parse(&text)
            }
        }
    }
}

/// A number by its digits: equal when it is worth the same.
#[derive(Debug, PartialEq, Eq)]
struct Decimal<'t> {
    is_negative: bool,
    /// Before and behind the point, without zeros at the outer ends.
    digits: (&'t str, &'t str),
}

impl<'t> Decimal<'t> {
    /// Digits with a sign and a point, as databases write them; one with an exponent stays as it is written.
    fn parse(text: &'t str) -> Option<Self> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !are_digits(whole) || !are_digits(part) {
            return None;
        }
        let digits = (whole.trim_start_matches('0'), part.trim_end_matches('0'));
        let is_zero = digits == ("", "");
        Some(Self { is_negative: text.starts_with('-') && !is_zero, digits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(location: &str, operation: Operation) -> Event {
        let json = |text: &str| Some(RawJson::parse(text.into()).unwrap());
        let mut event = Event::new(location, operation, "1", "i");
        event.key = json(r#"{"id":12345678901234567890,"a.b":"x"}"#);
        event.new = json(
            r#"{"status":"paid","total":10.50,"paid":true,"note":null,"more":{"a":1},"code":"007","ü\"":1}"#,
        );
        event
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn number(text: &str) -> Value {
        Value::number(text).unwrap()
    }

    fn holds(field: &str, test: Test) -> bool {
        let filter = Filter::default().with_condition(Condition::new(field, test).unwrap());
        filter.matches(&event("orders", Operation::Update))
    }

    #[test]
    fn tables_are_patterns_of_schema_and_table() {
        let matches = |patterns: &[&str], location: &str| {
            let filter = Filter::default().with_tables(patterns.iter().copied()).unwrap();
            filter.matches(&event(location, Operation::Create))
        };
        for (patterns, location, expected) in [
            (&["orders"][..], "orders", true),
            (&["public.orders"], "orders", true),
            (&["public.*"], "orders", true),
            (&["public.*"], "sales.orders", false),
            (&["sales.o*", "x"], "sales.orders", true),
            (&["orders"], "sales.orders", false),
            (&["Orders"], "orders", false),
            (&[], "orders", false),
        ] {
            assert_eq!(matches(patterns, location), expected, "{patterns:?} {location}");
        }
        for pattern in ["", ".x", "x."] {
            let error = Filter::default().with_tables([pattern]).unwrap_err();
            assert_eq!(error, FilterError::Pattern { pattern: pattern.to_owned() });
        }
    }

    #[test]
    fn everything_must_hold() {
        let paid = || Condition::new("new.status", Test::In(vec![text("paid")])).unwrap();
        let filter = || Filter::default().with_operations(vec![Operation::Update, Operation::Create]);
        assert!(Filter::default().is_open() && Filter::default().matches(&event("x", Operation::Truncate)));
        assert!(filter().matches(&event("orders", Operation::Update)));
        assert!(!filter().matches(&event("orders", Operation::Delete)));
        assert!(filter().with_condition(paid()).matches(&event("orders", Operation::Update)));
        let other = Condition::new("new.total", Test::Exists(false)).unwrap();
        assert!(
            !filter().with_condition(paid()).with_condition(other).matches(&event("o", Operation::Update))
        );
    }

    #[test]
    fn fields_are_compared_by_what_they_are_worth() {
        let is = |field: &str, value: Value| holds(field, Test::In(vec![text("no"), value]));
        assert!(is("new.status", text("paid")) && !is("new.status", text("Paid")));
        assert!(is("new.total", number("10.5")) && is("new.total", number("010.500")));
        assert!(is("new.total", text("10.50")) && !is("new.total", text("10.5")), "as it is written");
        assert!(is("new.paid", text("true")));
        assert!(is("new.code", text("007")) && !is("new.code", text("7")) && is("new.code", number("7")));
        assert!(
            is("key.id", number("12345678901234567890")) && !is("key.id", number("12345678901234567891"))
        );
        assert!(is("key.a.b", text("x")) && is("new.ü\"", number("1")));
        for absent in ["new.note", "new.nothing", "old.status"] {
            assert!(!is(absent, text("null")) && !is(absent, text("")), "{absent}");
        }
        assert!(!is("new.more", text("{\"a\":1}")));
        assert!(!is("new.total", number("-10.5")));
        assert_eq!(Decimal::parse("-0.0"), Decimal::parse("0"));
        for wrong in ["", "-", "1e3", "x", ".5", "1.2.3", "+1"] {
            assert!(Value::number(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn null_is_not_there() {
        for (field, is_there) in [
            ("new.status", true),
            ("new.more", true),
            ("new.note", false),
            ("new.x", false),
            ("old.x", false),
        ] {
            assert!(
                holds(field, Test::Exists(is_there)) && !holds(field, Test::Exists(!is_there)),
                "{field}"
            );
        }
    }

    #[test]
    fn a_field_without_its_part_is_refused_with_the_near_one() {
        for (field, nearest) in [
            ("status", "new.status"),
            ("New.status", "new.status"),
            ("keys.id", "key.id"),
            ("odl.id", "old.id"),
            ("new.", "new.column"),
            ("orders.id", "new.orders.id"),
        ] {
            let error = Condition::new(field, Test::Exists(true)).unwrap_err();
            let (field, nearest) = (field.to_owned(), nearest.to_owned());
            assert_eq!(error, FilterError::Field { field, nearest });
        }
    }
}
