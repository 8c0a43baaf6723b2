//! The tables of the matrix: every kind of key, name and place that the documentation speaks of.

/// A table. Each has the columns `v int` and `r int`, which are no part of its key unless it says so; `r` tells its rows
/// apart whatever happens to their keys.
pub(crate) struct Shape {
    pub(crate) title: &'static str,
    /// What makes it and everything it needs.
    pub(crate) create: String,
    /// How statements call it.
    pub(crate) table: &'static str,
    /// The location of its events.
    pub(crate) location: &'static str,
    /// The columns that an INSERT names besides `v` and `r`, each with its value for row `{n}`.
    pub(crate) columns: Vec<(&'static str, &'static str)>,
    /// The columns that name a row, by the documented rules.
    pub(crate) key: Vec<&'static str>,
    /// Whether statements of thousands of rows are tried on it, too.
    pub(crate) bulk: bool,
    /// Goes between the columns and the values of an INSERT.
    pub(crate) overriding: &'static str,
}

impl Shape {
    fn new(title: &'static str, table: &'static str, location: &'static str, create: &str) -> Self {
        Self {
            title,
            create: create.to_owned(),
            table,
            location,
            columns: vec![("id", "{n}")],
            key: vec!["id"],
            bulk: false,
            overriding: "",
        }
    }

    /// With a primary key `id` of a type, whose value for row `{n}` is `value`.
    fn typed(
        title: &'static str,
        table: &'static str,
        before: &str,
        column: &str,
        value: &'static str,
    ) -> Self {
        let create = format!("{before}; CREATE TABLE {table} (id {column} PRIMARY KEY, v int, r int)");
        Self { columns: vec![("id", value)], ..Self::new(title, table, table, &create) }
    }
}

const UUID: &str = "('00000000-0000-4000-8000-' || lpad(({n})::text, 12, '0'))::uuid";
const TEXT: &str = r#"concat('it''s "q"', E'\n\\\u00e9', {n})"#;
const NUMERIC: &str = "(12345678901234567890.50 + {n})::numeric";
const BYTEA: &str = r"(decode('00ff', 'hex') || convert_to(({n})::text, 'UTF8'))";
const TIME: &str = "(timestamptz '2026-03-29 00:30:00+00' + make_interval(secs => ({n}) * 0.25))";
const INTERVAL: &str = "make_interval(months => {n}, secs => -0.5)";
const FLOAT: &str = "({n} + 0.1)::float8";
const ARRAY: &str = "ARRAY[{n}, NULL, 2]";
const COMPOSITE: &str = "ROW({n}, 'a \"b\"')::pair";

/// All of them, for one database.
pub(crate) fn shapes() -> Vec<Shape> {
    let mut shapes = types();
    shapes.extend(keys());
    shapes.extend(names());
    shapes.extend(partitions());
    shapes
}

fn types() -> Vec<Shape> {
    let labels: Vec<String> = (0..200).map(|n| format!("'e {n}'")).collect();
    let mood = format!("CREATE TYPE mood AS ENUM ({})", labels.join(", "));
    vec![
        Shape::typed("int", "t_int", "", "int", "{n}"),
        Shape::typed("bigint", "t_bigint", "", "bigint", "9007199254740993 + {n}"),
        Shape::typed("uuid", "t_uuid", "", "uuid", UUID),
        Shape::typed("text", "t_text", "", "text", TEXT),
        Shape::typed("numeric", "t_numeric", "", "numeric", NUMERIC),
        Shape::typed("float8", "t_float", "", "float8", FLOAT),
        Shape::typed("bytea", "t_bytea", "", "bytea", BYTEA),
        Shape::typed("timestamptz", "t_time", "", "timestamptz", TIME),
        Shape::typed("interval", "t_interval", "", "interval", INTERVAL),
        Shape::typed("enum", "t_enum", &mood, "mood", "('e ' || {n})::mood"),
        Shape::typed("domain", "t_domain", "CREATE DOMAIN code AS timestamptz NOT NULL", "code", TIME),
        Shape::typed("array", "t_array", "", "int[]", ARRAY),
        Shape::typed("composite type", "t_pair", "CREATE TYPE pair AS (a int, b text)", "pair", COMPOSITE),
        Shape::typed("jsonb", "t_jsonb", "", "jsonb", "jsonb_build_object('b', {n}, 'a', '[1, 2]')"),
        Shape::typed("range", "t_range", "", "int4range", "int4range({n}, {n} + 1)"),
    ]
}

fn keys() -> Vec<Shape> {
    vec![
        Shape {
            bulk: true,
            columns: vec![("b", "{n} % 3"), ("a", "('k' || {n})"), ("c", TIME)],
            key: vec!["a", "b", "c"],
            ..Shape::new(
                "several columns",
                "t_several",
                "t_several",
                "CREATE TABLE t_several (b int, v int, r int, a text, c timestamptz, PRIMARY KEY (a, b, c))",
            )
        },
        Shape {
            overriding: "OVERRIDING SYSTEM VALUE",
            ..Shape::new(
                "identity, always",
                "t_identity",
                "t_identity",
                "CREATE TABLE t_identity (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int, r int)",
            )
        },
        Shape {
            columns: vec![("base", "{n}")],
            ..Shape::new(
                "generated column",
                "t_generated",
                "t_generated",
                "CREATE TABLE t_generated (id int GENERATED ALWAYS AS (base * 2) STORED PRIMARY KEY, base int, v int, r int)",
            )
        },
        Shape::new(
            "deferrable primary key",
            "t_deferrable",
            "t_deferrable",
            "CREATE TABLE t_deferrable (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v int, r int)",
        ),
        Shape {
            columns: vec![("a", "{n}"), ("b", "{n} + 1")],
            key: vec!["b"],
            ..Shape::new(
                "replica identity index",
                "t_replica",
                "t_replica",
                "CREATE TABLE t_replica (id int, a int NOT NULL UNIQUE, b int NOT NULL, v int, r int);
                 CREATE UNIQUE INDEX t_replica_b ON t_replica (b);
                 ALTER TABLE t_replica REPLICA IDENTITY USING INDEX t_replica_b",
            )
        },
        Shape {
            columns: vec![("a", "{n}"), ("b", "{n} + 1")],
            key: vec!["b"],
            ..Shape::new(
                "unique not-null index",
                "t_unique",
                "t_unique",
                "CREATE TABLE t_unique (id int UNIQUE, a int NOT NULL, b int NOT NULL, v int, r int,
                                        UNIQUE (a, b), UNIQUE (b));
                 CREATE UNIQUE INDEX ON t_unique (a) WHERE v > 0; CREATE UNIQUE INDEX ON t_unique ((a + 1))",
            )
        },
        Shape {
            columns: vec![("id", "nullif({n} % 4, 0)")],
            bulk: true,
            ..Shape::new(
                "column id without a key",
                "t_bare_id",
                "t_bare_id",
                "CREATE TABLE t_bare_id (id int, v int, r int)",
            )
        },
        Shape {
            columns: vec![("a", "{n}")],
            key: vec![],
            bulk: true,
            ..Shape::new("no key", "t_none", "t_none", "CREATE TABLE t_none (a int UNIQUE, v int, r int)")
        },
        Shape {
            columns: vec![("a", "{n}"), ("b", "{n}")],
            key: vec!["a"],
            ..Shape::new(
                "key with columns that are only included",
                "t_include",
                "t_include",
                "CREATE TABLE t_include (b int, a int, v int, r int, gone int, PRIMARY KEY (a) INCLUDE (b));
                 ALTER TABLE t_include DROP COLUMN gone",
            )
        },
        Shape::new(
            "unlogged",
            "t_unlogged",
            "t_unlogged",
            "CREATE UNLOGGED TABLE t_unlogged (id int PRIMARY KEY, v int, r int)",
        ),
    ]
}

fn names() -> Vec<Shape> {
    const LONG: &str = "a23456789b23456789c23456789d23456789e23456789f23456789g23456789";
    vec![
        Shape {
            columns: vec![("\"tbl\"", "{n}"), ("\"op\"", "{n}"), ("\"ids\"\"\"", "{n}")],
            key: vec!["tbl", "op", "ids\""],
            ..Shape::new(
                "names with quotes, and like our own",
                r#""we""ird {prefix} 'é%I""#,
                r#"we"ird {prefix} 'é%I"#,
                r#"CREATE TABLE "we""ird {prefix} 'é%I" ("tbl" int, "op" int, "ids""" int, v int, r int, PRIMARY KEY ("tbl", "op", "ids"""))"#,
            )
        },
        Shape {
            columns: vec![(r#""select""#, "{n}")],
            key: vec!["select"],
            ..Shape::new(
                "reserved words",
                r#""table""#,
                "table",
                r#"CREATE TABLE "table" ("select" int PRIMARY KEY, v int, r int)"#,
            )
        },
        Shape {
            columns: vec![(r#""ÄЖ語 🐘""#, "{n}")],
            key: vec!["ÄЖ語 🐘"],
            ..Shape::new(
                "mixed case and unicode, in such a schema",
                r#""My.Schéma"."Ordérs語""#,
                "My.Schéma.Ordérs語",
                r#"CREATE SCHEMA "My.Schéma"; CREATE TABLE "My.Schéma"."Ordérs語" ("ÄЖ語 🐘" int PRIMARY KEY, v int, r int)"#,
            )
        },
        Shape {
            columns: vec![(LONG, "{n}")],
            key: vec![LONG],
            ..Shape::new(
                "names of 63 bytes",
                "a23456789b23456789c23456789d23456789e23456789f23456789g23456789.a23456789b23456789c23456789d23456789e23456789f23456789g23456789",
                "a23456789b23456789c23456789d23456789e23456789f23456789g23456789.a23456789b23456789c23456789d23456789e23456789f23456789g23456789",
                &format!(
                    "CREATE SCHEMA {LONG}; CREATE TABLE {LONG}.{LONG} ({LONG} int PRIMARY KEY, v int, r int)"
                ),
            )
        },
        Shape {
            columns: vec![("new_rows", "{n}"), ("k", "{n}")],
            key: vec!["new_rows", "k"],
            ..Shape::new(
                "columns and a table named like what the trigger uses",
                "old_rows",
                "old_rows",
                "CREATE TABLE old_rows (new_rows int, k int, state int, changed int, ids int, v int, r int,
                                        body int, PRIMARY KEY (new_rows, k))",
            )
        },
        Shape {
            columns: vec![("ids", "{n}")],
            key: vec!["ids"],
            ..Shape::new(
                "a key named like a variable of the trigger",
                "new_rows",
                "new_rows",
                "CREATE TABLE new_rows (ids int PRIMARY KEY, changed int, v int, r int)",
            )
        },
    ]
}

fn partitions() -> Vec<Shape> {
    vec![
        Shape {
            bulk: true,
            columns: vec![("id", "{n}"), ("region", "('r' || {n} % 3)")],
            key: vec!["region", "id"],
            ..Shape::new(
                "partitions of two levels, through the root",
                "p",
                "p",
                "CREATE TABLE p (id int, region text, v int, r int, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
                 CREATE TABLE p_0 PARTITION OF p FOR VALUES IN ('r0') PARTITION BY RANGE (id);
                 CREATE TABLE p_0_low PARTITION OF p_0 FOR VALUES FROM (MINVALUE) TO (10);
                 CREATE TABLE p_0_high (r int, v int, gone int, region text NOT NULL, id int NOT NULL);
                 ALTER TABLE p_0_high DROP COLUMN gone;
                 ALTER TABLE p_0 ATTACH PARTITION p_0_high FOR VALUES FROM (10) TO (MAXVALUE);
                 CREATE TABLE p_rest PARTITION OF p DEFAULT",
            )
        },
        Shape {
            columns: vec![("id", "{n}"), ("region", "('r' || {n} % 3)")],
            key: vec!["region", "id"],
            ..Shape::new(
                "partitions of two levels, through the middle",
                "pm_0",
                "pm",
                "CREATE TABLE pm (id int, region text, v int, r int, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
                 CREATE TABLE pm_0 PARTITION OF pm DEFAULT PARTITION BY HASH (id);
                 CREATE TABLE pm_0_0 PARTITION OF pm_0 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                 CREATE TABLE pm_0_1 PARTITION OF pm_0 FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
            )
        },
        Shape {
            columns: vec![("id", "{n}"), ("region", "('r' || {n} % 3)")],
            key: vec!["region", "id"],
            ..Shape::new(
                "partitions, directly in a leaf of another column order",
                "pl_1",
                "pl",
                "CREATE TABLE pl (id int, region text, v int, r int, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
                 CREATE TABLE pl_1 (r int, region text NOT NULL, v int, id int NOT NULL);
                 ALTER TABLE pl ATTACH PARTITION pl_1 DEFAULT",
            )
        },
        Shape {
            bulk: true,
            ..Shape::new(
                "partitions whose rows move while their id stays",
                "pv",
                "pv",
                "CREATE TABLE pv (id int, v int, r int) PARTITION BY RANGE (v);
                 CREATE TABLE pv_low PARTITION OF pv FOR VALUES FROM (MINVALUE) TO (100);
                 CREATE TABLE pv_high PARTITION OF pv FOR VALUES FROM (100) TO (MAXVALUE)",
            )
        },
    ]
}
