//! The event trigger that covers a table in the very transaction that makes it, where the role may create one.
//!
//! PostgreSQL lets only superusers. Without it, and for whatever else is done to tables, there is the comparison.

use sha2::{Digest, Sha256};
use tokio_postgres::Client;

use crate::PostgresError;
use crate::capture::{self, Function, Source};
use crate::names::{Names, quote_identifier, quote_literal};
use crate::options::Options;
use crate::session::bounded;

const BODY_SQL: &str = include_str!("new_tables.sql");
/// Stand for schema and name of a table that does not exist yet, in the text of a function.
const MARKERS: (&str, &str) = ("dapper:schema", "dapper:table");

/// The statements that put the event trigger in place, replace an outdated one, or remove one that is not wanted; none when
/// it is as it should be, or this role may do nothing about it. Changes nothing.
pub(crate) async fn plan(client: &Client, options: &Options) -> Result<Vec<String>, PostgresError> {
    let names = &options.names;
    let row = bounded(
        "looking for the event trigger",
        client.query_one(
            "SELECT r.rolsuper,
                    (SELECT pg_catalog.sha256(pg_catalog.convert_to(p.prosrc, 'UTF8'))
                       FROM pg_catalog.pg_event_trigger e JOIN pg_catalog.pg_proc p ON p.oid = e.evtfoid
                      WHERE e.evtname = $1 AND e.evtenabled IN ('O', 'A')
                        AND p.pronamespace = pg_catalog.to_regnamespace($2))
               FROM pg_catalog.pg_roles r WHERE r.rolname = current_user",
            &[&trigger(names), &quote_identifier(&names.schema)],
        ),
    )
    .await?;
    let body = body(options);
    let is_current = row.get::<_, Option<&[u8]>>(1) == Some(Sha256::digest(body.as_bytes()).as_slice());
    if is_current || !row.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let function = function(names);
    let name = quote_identifier(&trigger(names));
    Ok(vec![
        format!("DROP EVENT TRIGGER IF EXISTS {name}"),
        format!(
            "CREATE OR REPLACE FUNCTION {function} RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER \
             SET search_path = '' AS {}",
            quote_literal(&body)
        ),
        format!("REVOKE ALL ON FUNCTION {function} FROM PUBLIC"),
        format!(
            "CREATE EVENT TRIGGER {name} ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO') \
             EXECUTE FUNCTION {function}"
        ),
    ])
}

/// Removes the event trigger, so that no table is covered any more.
pub(crate) fn drop_sql(names: &Names) -> String {
    format!("DROP FUNCTION IF EXISTS {} CASCADE", function(names))
}

/// The event trigger's name; those of all schemas of a database are in one name space.
pub(crate) fn trigger(names: &Names) -> String {
    format!("{}_tables", names.schema)
}

fn function(names: &Names) -> String {
    format!("{}.cover_new_tables()", quote_identifier(&names.schema))
}

fn body(options: &Options) -> String {
    let names = &options.names;
    let schema = quote_identifier(&names.schema);
    let template = Function::new(options, &Source::unknown(), MARKERS);
    let wanted = capture::CAPTURED.into_iter().filter(|operation| options.operations.contains(operation));
    let triggers: Vec<String> = wanted
        .map(|operation| {
            let name = quote_identifier(&names.trigger(operation));
            let sql =
                capture::trigger_sql(names, 0, operation, &name, "%1$I.%2$I").replace("capture_0", "%3$I");
            format!(
                "        EXECUTE pg_catalog.format({}, made.schema, made.name, 'capture_' || made.oid);",
                quote_literal(&sql)
            )
        })
        .collect();
    let json = |text: &str| serde_json::to_string(text).expect("text is valid JSON");
    let values = [
        ("{schema_literal}", quote_literal(&schema)),
        ("{schema_text}", schema.replace('\'', "''").replace('%', "%%")),
        ("{root_matches}", options.tables.sql("made.root_schema", "made.root_name")),
        ("{own_matches}", options.tables.sql("made.schema", "made.name")),
        ("{body}", quote_literal(template.body())),
        ("{settings}", template.settings_sql().replace('\'', "''")),
        ("{excluded_marker}", quote_literal(capture::EXCLUDED_MARKER)),
        ("{excluded_columns}", options.exclude_columns.sql()),
        ("{schema_marker}", quote_literal(&format!("\"schema\":{},", json(MARKERS.0)))),
        ("{name_marker}", quote_literal(&json(MARKERS.1))),
        ("{triggers}", triggers.join("\n")),
    ];
    let values: Vec<(&str, &str)> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
    capture::fill(BODY_SQL, &values)
}
