//! Who asks: noted in markers and backups.

use pitr::config::Environment;

/// `user@host`.
pub fn who(uid: u32, environment: &Environment) -> String {
    let user = nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name);
    // Behind sudo the person is whoever called it.
    let caller = environment.get("SUDO_USER").map(str::to_owned);
    let user = caller.or(user).unwrap_or_else(|| uid.to_string());
    let host = nix::unistd::gethostname().map(|host| host.to_string_lossy().into_owned());
    format!("{user}@{}", host.unwrap_or_else(|_| "unknown".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_user_or_the_number() {
        let nobody = who(u32::MAX - 7, &Environment::default());
        assert!(nobody.starts_with(&format!("{}@", u32::MAX - 7)), "{nobody}");
        let behind_sudo = who(0, &Environment::from_iter([("SUDO_USER", "ann")]));
        assert!(behind_sudo.starts_with("ann@"), "{behind_sudo}");
    }
}
