//! What a person expects to hold for a connection besides its string: `PG*` variables, a service, files at home.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use crate::connection_string::ConnectionString;
use crate::parameters::{PARAMETERS, Support};
use crate::parse::{Pairs, parse, write};
use crate::{ConnectionStringError, service_file};

const HOME: &str = "HOME";
const SERVICE_FILE: &str = "PGSERVICEFILE";
const SYSTEM_FOLDER: &str = "PGSYSCONFDIR";

/// The variables that say something about connections, and the home folder. `Debug` shows the names alone.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<&'static str, String>,
}

impl Environment {
    /// What `look_up` has of the variables that matter; an empty one counts as not set.
    pub fn new(look_up: impl Fn(&str) -> Option<String>) -> Self {
        let names = PARAMETERS.iter().filter_map(|parameter| parameter.variable);
        let names = names.chain([HOME, SERVICE_FILE, SYSTEM_FOLDER]);
        let variables = names.filter_map(|name| Some((name, look_up(name)?)));
        Self { variables: variables.filter(|(_, value)| !value.is_empty()).collect() }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// A file at home, if it is there.
    fn file_at_home(&self, name: &str) -> Option<String> {
        let path = PathBuf::from(self.get(HOME)?).join(name);
        path.is_file().then(|| path.to_string_lossy().into_owned())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// The connection string with everything put in that it leaves to its surroundings, in libpq's order: what it says itself,
/// then its service, then variables, then files at home. The outcome says everything by itself.
///
/// Reads the service file, and looks whether the files at home are there. Blocks for as long as that takes.
///
/// # Errors
/// What is wrong with it or with what was put in, and where that came from; without any of the text.
pub fn complete(
    text: &SecretString,
    environment: &Environment,
) -> Result<SecretString, ConnectionStringError> {
    let mut whole = Whole { pairs: parse(text.expose_secret())?, origins: Vec::new() };
    whole.add_service(environment)?;
    whole.add_variables(environment)?;
    whole.add_files_at_home(environment);
    ConnectionString::from_pairs(&whole.pairs).map_err(|error| whole.explain(error))?;
    Ok(write(&whole.pairs).into())
}

/// What there is by now, and where each parameter comes from that the string itself does not give.
struct Whole {
    pairs: Pairs,
    origins: Vec<(&'static str, String)>,
}

impl Whole {
    fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(other, _)| *other == name).map(|(_, value)| value.as_str())
    }

    fn add(&mut self, name: &'static str, value: impl Into<String>, origin: impl Into<String>) {
        self.pairs.push((name, value.into()));
        self.origins.push((name, origin.into()));
    }

    fn add_service(&mut self, environment: &Environment) -> Result<(), ConnectionStringError> {
        let Some(service) = self.get("service").or(environment.get("PGSERVICE")).map(str::to_owned) else {
            return Ok(());
        };
        self.pairs.retain(|(name, _)| *name != "service");
        let refuse = |reason: String| ConnectionStringError::of("service", reason);
        let own = environment.get(SERVICE_FILE).map(PathBuf::from);
        let at_home = environment.get(HOME).map(|home| PathBuf::from(home).join(".pg_service.conf"));
        let of_system =
            environment.get(SYSTEM_FOLDER).map(|folder| PathBuf::from(folder).join("pg_service.conf"));
        let is_own = own.is_some();
        let mut tried = Vec::new();
        for path in [own.or(at_home), of_system].into_iter().flatten() {
            let file = path.display().to_string();
            match fs::read_to_string(&path) {
                Ok(text) => {
                    if let Some(pairs) = service_file::find(&text, &service, &file)? {
                        for (name, value) in pairs {
                            if self.get(name).is_none() {
                                self.add(name, value, format!("the service in {file}"));
                            }
                        }
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && !(is_own && tried.is_empty()) => {}
                Err(error) => {
                    return Err(refuse(format!("names a service, and {file} can't be read: {error}")));
                }
            }
            tried.push(file);
        }
        let tried =
            if tried.is_empty() { "no file, for there is none to look in".into() } else { tried.join(", ") };
        Err(refuse(format!(
            "names a service that is not there; looked in {tried}; PGSERVICEFILE names another file"
        )))
    }

    fn add_variables(&mut self, environment: &Environment) -> Result<(), ConnectionStringError> {
        for parameter in PARAMETERS {
            let Some(variable) = parameter.variable else { continue };
            let Some(value) = environment.get(variable) else { continue };
            if let Support::No(remedy) = parameter.support {
                let reason =
                    format!("can't be used with the variable {variable}, which is not supported: {remedy}");
                return Err(ConnectionStringError::of(parameter.name, reason));
            }
            if parameter.name != "service" && self.get(parameter.name).is_none() {
                self.add(parameter.name, value, format!("the variable {variable}"));
            }
        }
        Ok(())
    }

    fn add_files_at_home(&mut self, environment: &Environment) {
        if self.get("password").is_none()
            && self.get("passfile").is_none()
            && let Some(path) = environment.file_at_home(".pgpass")
        {
            self.add("passfile", path, "the home folder");
        }
        let mode = self.get("sslmode").unwrap_or("prefer").to_owned();
        if matches!(mode.as_str(), "require" | "verify-ca" | "verify-full")
            && self.get("sslrootcert").is_none()
            && let Some(path) = environment.file_at_home(".postgresql/root.crt")
        {
            self.add("sslrootcert", path, "the home folder");
        }
        if mode != "disable"
            && self.get("sslcert").is_none()
            && self.get("sslkey").is_none()
            && let Some(certificate) = environment.file_at_home(".postgresql/postgresql.crt")
            && let Some(key) = environment.file_at_home(".postgresql/postgresql.key")
        {
            self.add("sslcert", certificate, "the home folder");
            self.add("sslkey", key, "the home folder");
        }
    }

    fn explain(&self, mut error: ConnectionStringError) -> ConnectionStringError {
        if let Some((name, origin)) = self.origins.iter().find(|(name, _)| Some(*name) == error.parameter) {
            error.reason.push_str(&format!(" ({name} is from {origin})"));
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::new(|name| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn check(text: &str, variables: &[(&str, &str)], expected: &str) {
        let whole = complete(&text.to_owned().into(), &environment(variables)).unwrap();
        assert_eq!(whole.expose_secret(), expected);
        assert_eq!(complete(&whole, &Environment::default()).unwrap().expose_secret(), expected);
    }

    fn refused(text: &str, variables: &[(&str, &str)]) -> String {
        complete(&text.to_owned().into(), &environment(variables)).unwrap_err().to_string()
    }

    #[test]
    fn variables_stand_in_for_what_the_string_leaves_out() {
        let variables = [("PGHOST", "elsewhere"), ("PGUSER", "app"), ("PGPASSWORD", "it's"), ("PGPORT", "")];
        check("postgresql://db/shop", &variables, r"dbname='shop' host='db' user='app' password='it\'s'");
        check("postgresql://", &variables[..2], "host='elsewhere' user='app'");
    }

    #[test]
    fn every_variable_of_the_table_is_taken_or_refused() {
        for parameter in PARAMETERS {
            let Some(variable) = parameter.variable else { continue };
            match parameter.support {
                Support::No(remedy) => {
                    let error = refused("host=db", &[(variable, "canary")]);
                    assert!(error.contains(variable) && error.contains(remedy), "{error}");
                    assert!(!error.contains("canary"), "{error}");
                }
                Support::Yes(_) => {
                    let whole = complete(&"host=db".to_owned().into(), &environment(&[(variable, "' x")]));
                    let taken = whole.is_ok_and(|whole| whole.expose_secret().contains(parameter.name));
                    let text = format!("from the variable {variable}");
                    let is_free = matches!(parameter.name, "host" | "service");
                    let refusal = || refused("host=db", &[(variable, "' x")]);
                    assert!(
                        taken || is_free || refusal().contains(&text) || parameter.name.starts_with("ssl"),
                        "{variable}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_bad_value_says_which_variable_has_it() {
        let error = refused("host=db", &[("PGSSLMODE", "canary")]);
        assert!(
            error.ends_with("(sslmode is from the variable PGSSLMODE)") && !error.contains("canary"),
            "{error}"
        );
        assert!(refused("dbname=d", &[]).contains("set PGHOST"));
    }

    #[test]
    fn a_service_goes_before_variables_and_behind_the_string() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("services");
        fs::write(&file, "[shop]\nhost=db\nport=6432\nuser=service\n").unwrap();
        let file = file.to_str().unwrap();
        let variables =
            [("PGSERVICEFILE", file), ("PGPORT", "1"), ("PGUSER", "variable"), ("PGDATABASE", "d")];
        check("service=shop user=own", &variables, "user='own' host='db' port='6432' dbname='d'");
        let named = [&variables[..], &[("PGSERVICE", "shop")]].concat();
        check("postgresql://", &named, "host='db' port='6432' user='service' dbname='d'");
        let error = refused("service=other", &variables);
        assert!(error.contains("names a service that is not there") && error.contains(file), "{error}");
        let error = refused("service=shop", &[("PGSERVICEFILE", "/nowhere/at/all")]);
        assert!(error.contains("/nowhere/at/all can't be read"), "{error}");
        fs::write(folder.path().join("pg_service.conf"), "[system]\nhost=sys\n").unwrap();
        let variables = [("HOME", "/nowhere"), ("PGSYSCONFDIR", folder.path().to_str().unwrap())];
        check("service=system", &variables, "host='sys'");
    }

    #[test]
    fn files_at_home_are_used_where_they_are() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        check("host=db", &[("HOME", path)], "host='db'");
        fs::create_dir(home.path().join(".postgresql")).unwrap();
        for name in [".pgpass", ".postgresql/root.crt", ".postgresql/postgresql.crt"] {
            fs::write(home.path().join(name), "").unwrap();
        }
        check("host=db", &[("HOME", path)], &format!("host='db' passfile='{path}/.pgpass'"));
        check("host=db password=x", &[("HOME", path)], "host='db' password='x'");
        fs::write(home.path().join(".postgresql/postgresql.key"), "").unwrap();
        check(
            "host=db password=x sslmode=require",
            &[("HOME", path)],
            &format!(
                "host='db' password='x' sslmode='require' sslrootcert='{path}/.postgresql/root.crt' \
                 sslcert='{path}/.postgresql/postgresql.crt' sslkey='{path}/.postgresql/postgresql.key'"
            ),
        );
        check(
            "host=db password=x sslmode=disable",
            &[("HOME", path)],
            "host='db' password='x' sslmode='disable'",
        );
    }

    #[test]
    fn debug_shows_names_alone() {
        assert_eq!(format!("{:?}", environment(&[("PGPASSWORD", "canary")])), r#"{"PGPASSWORD"}"#);
    }
}
