//! How the restored server's `wal-fetch` reaches the repository.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pitr::config::Environment;
use pitr::restore::recovery_config::RepositoryAccess;

use crate::settings::Settings;

/// Variables that lead to credentials and are none.
const LEADING: [&str; 11] = [
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];
/// Files that are looked for in the home directory, which is another one for the server.
const IN_HOME: [(&str, &str); 2] =
    [("AWS_CONFIG_FILE", ".aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials")];

/// As this command reached it, with absolute paths.
pub fn repository_access(settings: &Settings, environment: &Environment, current: &Path) -> RepositoryAccess {
    let s3 = &settings.repository.storage.s3;
    let file = settings.config.as_ref().map(|config| current.join(config.file()));
    RepositoryAccess {
        config: file,
        url: settings.url().to_string(),
        endpoint: s3.endpoint.clone(),
        region: s3.region.clone(),
        path_style: s3.path_style,
        ca_file: s3.ca_file.clone(),
        environment: match settings.url().local_path() {
            Some(_) => BTreeMap::new(),
            None => leading_variables(environment, current),
        },
    }
}

fn leading_variables(environment: &Environment, current: &Path) -> BTreeMap<String, String> {
    let is_path = |name: &str| name.ends_with("_FILE");
    let mut variables: BTreeMap<String, String> = LEADING
        .into_iter()
        .filter_map(|name| Some((name, environment.get(name)?)))
        .map(|(name, value)| {
            let value = if is_path(name) { current.join(value).display().to_string() } else { value.to_owned() };
            (name.to_owned(), value)
        })
        .collect();
    for (name, file) in IN_HOME {
        let in_home = environment.get("HOME").map(|home| PathBuf::from(home).join(file)).filter(|path| path.is_file());
        if let Some(path) = in_home {
            variables.entry(name.to_owned()).or_insert_with(|| current.join(path).display().to_string());
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_where_credentials_come_from_and_holds_none() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        std::fs::write(home.path().join(".aws/credentials"), "").unwrap();
        let environment = Environment::from_iter([
            ("HOME", home.path().to_str().unwrap()),
            ("AWS_PROFILE", "backup"),
            ("AWS_CONFIG_FILE", "conf/aws"),
            ("AWS_SECRET_ACCESS_KEY", "shh"),
            ("AWS_SESSION_TOKEN", "shh"),
        ]);
        let variables = leading_variables(&environment, Path::new("/srv"));
        let expected = [
            ("AWS_CONFIG_FILE", "/srv/conf/aws".to_owned()),
            ("AWS_PROFILE", "backup".to_owned()),
            ("AWS_SHARED_CREDENTIALS_FILE", home.path().join(".aws/credentials").display().to_string()),
        ];
        assert_eq!(variables, expected.map(|(name, value)| (name.to_owned(), value)).into());
    }
}
