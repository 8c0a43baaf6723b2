//! The statements of the matrix, written for any of its tables.

use super::shapes::Shape;
use super::stage::Step;

/// What the application does with a table that holds the rows 1 to 5.
pub(crate) struct Kind {
    pub(crate) title: &'static str,
    /// The messages that the application sends, in order.
    pub(crate) steps: Vec<Step>,
}

struct Writer<'a> {
    shape: &'a Shape,
}

impl Writer<'_> {
    fn value(value: &str, n: &str) -> String {
        value.replace("{n}", n)
    }

    fn columns(&self) -> String {
        let own: String = self.shape.columns.iter().map(|(column, _)| format!("{column}, ")).collect();
        format!("({own}v, r)")
    }

    fn values(&self, n: &str) -> String {
        let own: String =
            self.shape.columns.iter().map(|(_, value)| format!("{}, ", Self::value(value, n))).collect();
        format!("{own}({n}) * 10, {n}")
    }

    fn into(&self) -> String {
        format!("INSERT INTO {} {} {}", self.shape.table, self.columns(), self.shape.overriding)
    }

    fn insert(&self, rows: &[u32]) -> String {
        let rows: Vec<String> = rows.iter().map(|n| format!("({})", self.values(&n.to_string()))).collect();
        format!("{} VALUES {}", self.into(), rows.join(", "))
    }

    fn series(&self, first: u32, last: u32) -> String {
        format!("{} SELECT {} FROM generate_series({first}, {last}) s(n)", self.into(), self.values("n"))
    }

    /// Assignments that give a row the key of row `n`.
    fn key_of(&self, n: &str) -> String {
        let each: Vec<String> = self
            .shape
            .columns
            .iter()
            .map(|(column, value)| format!("{column} = {}", Self::value(value, n)))
            .collect();
        each.join(", ")
    }

    fn update(&self, what: &str, condition: &str) -> String {
        format!("UPDATE {} SET {what} WHERE {condition}", self.shape.table)
    }

    fn delete(&self, condition: &str) -> String {
        format!("DELETE FROM {} WHERE {condition}", self.shape.table)
    }

    fn conflict(&self) -> String {
        let key: Vec<String> =
            self.shape.key.iter().map(|column| format!("\"{}\"", column.replace('"', "\"\""))).collect();
        if key.is_empty() { "(r)".to_owned() } else { format!("({})", key.join(", ")) }
    }
}

/// What brings a table back to rows 1 to 5.
pub(crate) fn reset(shape: &Shape) -> Vec<Step> {
    let w = Writer { shape };
    vec![w.delete("true").into(), w.insert(&[1, 2, 3, 4, 5]).into()]
}

fn kind<S: Into<Step>>(title: &'static str, steps: impl IntoIterator<Item = S>) -> Kind {
    Kind { title, steps: steps.into_iter().map(Into::into).collect() }
}

/// All of them, for one table.
pub(crate) fn kinds(shape: &Shape) -> Vec<Kind> {
    let w = Writer { shape };
    let mut kinds = inserts(&w);
    kinds.extend(changes(&w));
    kinds.extend(at_once(&w));
    kinds.extend(transactions(&w));
    kinds.extend(circumstances(&w));
    if shape.bulk {
        kinds.push(bulk(&w));
    }
    kinds
}

fn bulk(w: &Writer<'_>) -> Kind {
    kind(
        "`INSERT`, `UPDATE` and `DELETE` of about and more than 1,000 rows",
        [
            w.series(100, 1_098),
            w.series(1_100, 2_099),
            w.series(2_100, 3_100),
            w.update("v = v + 1", "r BETWEEN 1100 AND 2099"),
            w.update("v = v + 1", "r BETWEEN 2100 AND 3100"),
            w.update(&w.key_of("(CASE WHEN r = 3100 THEN 20000 ELSE r END)"), "r BETWEEN 2100 AND 3100"),
            w.update(&w.key_of("r + 20000"), "r > 5"),
            w.delete("r > 5"),
        ],
    )
}

fn inserts(w: &Writer<'_>) -> Vec<Kind> {
    let table = w.shape.table;
    let upsert =
        |set: &str| format!("{} ON CONFLICT {} DO UPDATE SET {set}", w.insert(&[4, 5, 10, 11]), w.conflict());
    vec![
        kind("`INSERT` of one row", [w.insert(&[10])]),
        kind("`INSERT` of several rows", [w.insert(&[10, 11, 12])]),
        Kind {
            title: "`COPY`",
            steps: vec![
                Step::Copy(
                    format!("COPY (SELECT {} FROM generate_series(20, 29) s(n)) TO STDOUT", w.values("n")),
                    format!("COPY {table} {} FROM STDIN", w.columns()),
                ),
                // A row that exists.
                Step::Copy(
                    format!("COPY (SELECT {} FROM generate_series(29, 31) s(n)) TO STDOUT", w.values("n")),
                    format!("COPY {table} {} FROM STDIN", w.columns()),
                ),
            ],
        },
        kind("`INSERT … ON CONFLICT DO UPDATE`", [upsert("v = excluded.v + 1000")]),
        kind("`INSERT … ON CONFLICT DO UPDATE` of the key", [upsert(&w.key_of("(excluded.r + 50)"))]),
        kind("`INSERT … ON CONFLICT DO NOTHING`", [format!("{} ON CONFLICT DO NOTHING", w.insert(&[5, 12]))]),
        kind("`INSERT … RETURNING`", [format!("{} RETURNING v, r", w.insert(&[13, 14]))]),
    ]
}

fn changes(w: &Writer<'_>) -> Vec<Kind> {
    let table = w.shape.table;
    let swap = w.key_of("(CASE r WHEN 1 THEN 2 ELSE 1 END)");
    vec![
        kind("`UPDATE` of one row", [w.update("v = v + 1", "r = 1")]),
        kind("`UPDATE` of several rows", [w.update("v = 500 - v", "true")]),
        kind("`UPDATE` that assigns the key it had", [w.update(&w.key_of("r"), "r < 4")]),
        kind("`UPDATE` of the key of one row", [w.update(&w.key_of("r + 30"), "r = 2")]),
        kind(
            "`UPDATE` of the key of some rows among others",
            [w.update(&w.key_of("(CASE WHEN r < 3 THEN r ELSE r + 30 END)"), "true")],
        ),
        kind("`UPDATE` that shifts all keys", [w.update(&w.key_of("r + 1"), "true")]),
        kind("`UPDATE` that swaps two keys", [w.update(&swap, "r IN (1, 2)")]),
        kind(
            "`UPDATE … FROM`",
            [format!("UPDATE {table} t SET v = s.n FROM generate_series(3, 9) s(n) WHERE s.n = t.r")],
        ),
        kind("`DELETE` of one row", [w.delete("r = 3")]),
        kind("`DELETE` of all rows", [w.delete("true")]),
        kind(
            "`DELETE … USING`",
            [format!("DELETE FROM {table} t USING generate_series(3, 9) s(n) WHERE s.n = t.r RETURNING t.v")],
        ),
        kind(
            "statements that touch no row",
            [format!("{} WHERE false", w.series(1, 2)), w.update("v = 0", "r = 99"), w.delete("r = 99")],
        ),
        kind(
            "statements that fail",
            [
                w.insert(&[15, 16, 1]),
                w.update("v = 1 / (r - 4)", "true"),
                w.update("v = 'x'", "true"),
                format!("DELETE FROM {table} WHERE 1 / (r - 4) > 0"),
            ],
        ),
        kind("`TRUNCATE`", [format!("TRUNCATE {table}")]),
        kind(
            "`WHERE CURRENT OF`",
            [
                "BEGIN".to_owned(),
                format!("DECLARE c CURSOR FOR SELECT * FROM {table} WHERE r = 2 FOR UPDATE"),
                "FETCH c".to_owned(),
                format!("UPDATE {table} SET v = 77 WHERE CURRENT OF c"),
                format!("DELETE FROM {table} WHERE CURRENT OF c"),
                "COMMIT".to_owned(),
            ],
        ),
    ]
}

fn at_once(w: &Writer<'_>) -> Vec<Kind> {
    let table = w.shape.table;
    let values = |n: &str| format!("{} {} VALUES ({})", w.columns(), w.shape.overriding, w.values(n));
    let merge = |matched: &str| {
        format!(
            "MERGE INTO {table} t USING generate_series(3, 7) s(n) ON t.r = s.n WHEN MATCHED AND s.n = 4 THEN DELETE
             WHEN MATCHED THEN UPDATE SET {matched} WHEN NOT MATCHED THEN INSERT {}",
            values("s.n")
        )
    };
    vec![
        kind("`MERGE`", [merge("v = 1000")]),
        kind("`MERGE` that changes keys", [merge(&w.key_of("(s.n + 40)"))]),
        kind(
            "writable CTE",
            [format!(
                "WITH gone AS (DELETE FROM {table} WHERE r = 1 RETURNING r),
                      changed AS (UPDATE {table} SET v = 8 WHERE r = 2 RETURNING r)
                 {} SELECT {} FROM (SELECT 20 AS n FROM gone, changed) s",
                w.into(),
                w.values("n")
            )],
        ),
        kind(
            "writable CTE that replaces a row",
            [format!(
                "WITH gone AS (DELETE FROM {table} WHERE r = 1 RETURNING r) {} SELECT {} FROM gone g",
                w.into(),
                w.values("g.r").replace("* 10, g.r", "* 10, g.r + 100")
            )],
        ),
    ]
}

fn transactions(w: &Writer<'_>) -> Vec<Kind> {
    let within = |begin: &str, end: &str| {
        [
            begin.to_owned(),
            w.insert(&[30]),
            w.update("v = 1", "r = 30"),
            w.update(&w.key_of("31"), "r = 30"),
            w.delete("r = 30"),
            w.insert(&[30]),
            w.delete("r = 2"),
            end.to_owned(),
        ]
    };
    let prepared = |end: &str| {
        let mut steps = within("BEGIN", "PREPARE TRANSACTION '{database}'").to_vec();
        steps.push(end.to_owned());
        steps
    };
    vec![
        kind("several statements on one row in one transaction", within("BEGIN", "COMMIT")),
        kind("transaction rolled back", within("BEGIN", "ROLLBACK")),
        kind("`REPEATABLE READ`", within("BEGIN ISOLATION LEVEL REPEATABLE READ", "COMMIT")),
        kind("`SERIALIZABLE`", within("BEGIN ISOLATION LEVEL SERIALIZABLE", "COMMIT")),
        kind("`PREPARE TRANSACTION`, `COMMIT PREPARED`", prepared("COMMIT PREPARED '{database}'")),
        kind("`PREPARE TRANSACTION`, `ROLLBACK PREPARED`", prepared("ROLLBACK PREPARED '{database}'")),
        kind(
            "savepoints",
            [
                "BEGIN".to_owned(),
                w.insert(&[31]),
                "SAVEPOINT a".to_owned(),
                w.insert(&[32]),
                w.update(&w.key_of("r + 60"), "r < 3"),
                "ROLLBACK TO a".to_owned(),
                w.insert(&[33]),
                "SAVEPOINT b".to_owned(),
                w.delete("r = 33"),
                w.insert(&[1, 1]),
                "ROLLBACK TO b".to_owned(),
                w.delete("r IN (1, 33)"),
                "RELEASE b".to_owned(),
                "COMMIT".to_owned(),
            ],
        ),
        kind(
            "a block with an exception handler",
            [format!(
                "DO $$ BEGIN
                     FOR i IN 1..3 LOOP
                         BEGIN {}; {}; IF i = 2 THEN RAISE division_by_zero; END IF;
                         EXCEPTION WHEN division_by_zero THEN NULL; END;
                     END LOOP;
                 END $$",
                w.insert(&[34]).replace("34", "(34 + i)"),
                w.update("v = v + 1", "r = 34 + i"),
            )],
        ),
        kind("read-only transaction", ["BEGIN READ ONLY".to_owned(), w.insert(&[39]), "COMMIT".to_owned()]),
    ]
}

fn circumstances(w: &Writer<'_>) -> Vec<Kind> {
    let table = w.shape.table;
    let some = || {
        [
            w.insert(&[50, 51]),
            w.update("v = 3", "r = 50"),
            w.update(&w.key_of("55"), "r = 51"),
            w.delete("r = 50"),
        ]
    };
    let among = |before: &[String], after: &[&str]| {
        let mut steps = before.to_vec();
        steps.extend(some());
        steps.extend(after.iter().map(|&text| text.to_owned()));
        steps
    };
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let bare = w.shape.location.rsplit('.').next().unwrap_or_default().replace('"', "\"\"");
    vec![
        kind(
            "prepared statements",
            [
                format!("PREPARE change(int) AS UPDATE {table} SET v = v + $1 WHERE r > $1"),
                "EXECUTE change(1)".to_owned(),
                "EXECUTE change(3)".to_owned(),
                "EXECUTE change(9)".to_owned(),
                "DEALLOCATE change".to_owned(),
            ],
        ),
        kind(
            "writer whose settings print values otherwise",
            among(
                &owned(&[
                    "SET TimeZone = 'Asia/Tokyo'; SET bytea_output = 'escape'; SET extra_float_digits = -3;
                     SET IntervalStyle = 'sql_standard'; SET DateStyle = 'SQL, DMY'; SET standard_conforming_strings = off",
                ]),
                &["RESET ALL"],
            ),
        ),
        kind("writer without rights on our schema", among(&owned(&["SET ROLE matrix_clerk"]), &["RESET ROLE"])),
        kind(
            "row level security",
            among(
                &[
                    format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"),
                    format!("CREATE POLICY some ON {table} USING (r <> 51) WITH CHECK (true)"),
                    "SET ROLE matrix_clerk".to_owned(),
                    w.update("v = 5", "true"),
                ],
                &["RESET ROLE", &format!("DROP POLICY some ON {table}"), &format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY")],
            ),
        ),
        kind(
            "temporary tables named like ours and like the table",
            among(
                &[
                    "CREATE TEMP TABLE change_sets_0 (changes int, payload text); CREATE TEMP TABLE wake_up (last_value int);
                     CREATE TEMP TABLE old_rows (k int); CREATE TEMP TABLE new_rows (k int); CREATE TEMP TABLE n (k int)".to_owned(),
                ],
                &["DISCARD TEMP"],
            ),
        ),
        kind(
            "a temporary table that hides it",
            [
                format!("CREATE TEMP TABLE \"{bare}\" (id int, v int, r int)"),
                format!("INSERT INTO \"{bare}\" VALUES (1, 1, 1)"),
                "DISCARD TEMP".to_owned(),
            ],
        ),
        kind(
            "`session_replication_role = replica`",
            among(&owned(&["SET session_replication_role = replica"]), &["RESET session_replication_role"]),
        ),
    ]
}
