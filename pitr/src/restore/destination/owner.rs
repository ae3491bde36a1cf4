//! Who owns what is restored. A server refuses a data directory of another user.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User};

use super::{Error, Result};
use crate::repository::backup::Owner;

/// A user of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    pub name: String,
}

/// The users and groups of a host.
pub trait Accounts {
    fn effective(&self) -> Account;
    fn by_name(&self, name: &str) -> Option<Account>;
    fn by_uid(&self, uid: u32) -> Option<Account>;
    fn group(&self, name: &str) -> Option<u32>;
    /// Every group that a user is in.
    fn groups_of(&self, account: &Account) -> Vec<u32>;
}

/// Those of this host, by the name service.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemAccounts;

impl From<User> for Account {
    fn from(user: User) -> Self {
        Self { uid: user.uid.as_raw(), gid: user.gid.as_raw(), name: user.name }
    }
}

impl Accounts for SystemAccounts {
    fn effective(&self) -> Account {
        let (uid, gid) = (Uid::effective(), Gid::effective());
        // A container may run under a number that has no name.
        let name = self.by_uid(uid.as_raw()).map_or_else(|| uid.to_string(), |account| account.name);
        Account { uid: uid.as_raw(), gid: gid.as_raw(), name }
    }

    fn by_name(&self, name: &str) -> Option<Account> {
        User::from_name(name).ok().flatten().map(Account::from)
    }

    fn by_uid(&self, uid: u32) -> Option<Account> {
        User::from_uid(Uid::from_raw(uid)).ok().flatten().map(Account::from)
    }

    fn group(&self, name: &str) -> Option<u32> {
        Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
    }

    fn groups_of(&self, account: &Account) -> Vec<u32> {
        let Ok(name) = CString::new(account.name.clone()) else { return vec![account.gid] };
        match nix::unistd::getgrouplist(&name, Gid::from_raw(account.gid)) {
            Ok(groups) => groups.into_iter().map(Gid::as_raw).collect(),
            Err(_) => vec![account.gid],
        }
    }
}

/// Who shall own the files, by names or numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerRequest {
    pub user: String,
    /// The user's primary group where none is named.
    pub group: Option<String>,
}

impl OwnerRequest {
    fn account(&self, accounts: &dyn Accounts) -> Option<Account> {
        accounts.by_name(&self.user).or_else(|| accounts.by_uid(self.user.parse().ok()?))
    }

    fn group(&self, accounts: &dyn Accounts, account: &Account) -> Result<u32> {
        let Some(name) = &self.group else { return Ok(account.gid) };
        accounts.group(name).or_else(|| name.parse().ok()).ok_or_else(|| Error::UnknownGroup { name: name.clone() })
    }
}

/// The owner of everything that a restore makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    pub account: Account,
    pub gid: u32,
    /// Whether files have to be given to it, because we are somebody else.
    pub give_away: bool,
}

impl Ownership {
    /// `command` as the owner of the files runs it, from where we are.
    #[must_use]
    pub fn command_of_account(&self, command: &str) -> String {
        if self.give_away { format!("runuser -u {} -- {command}", self.account.name) } else { command.to_owned() }
    }

    /// As root: who was asked for, else who owned the original (by name, because numbers differ between hosts, then by
    /// number). As another user: that user, and nobody else can be asked for.
    ///
    /// # Errors
    /// A user that does not exist here, or one that we cannot give files to.
    pub fn resolve(asked: Option<&OwnerRequest>, recorded: &Owner, accounts: &dyn Accounts) -> Result<Self> {
        let effective = accounts.effective();
        if effective.uid != 0 {
            return Self::for_ordinary_user(asked, effective, accounts);
        }
        if let Some(asked) = asked {
            let account = asked.account(accounts).ok_or_else(|| Error::UnknownOwner { name: asked.user.clone() })?;
            let gid = asked.group(accounts, &account)?;
            return Ok(Self { gid, give_away: (account.uid, gid) != (0, effective.gid), account });
        }
        let by_name = recorded.user.as_deref().and_then(|name| accounts.by_name(name));
        let Some(account) = by_name.or_else(|| accounts.by_uid(recorded.uid)) else {
            let name = recorded.user.clone().unwrap_or_else(|| recorded.uid.to_string());
            return Err(Error::UnknownOwner { name });
        };
        let group = recorded.group.as_deref().and_then(|name| accounts.group(name));
        Ok(Self { gid: group.unwrap_or(account.gid), give_away: account.uid != 0, account })
    }

    fn for_ordinary_user(asked: Option<&OwnerRequest>, effective: Account, accounts: &dyn Accounts) -> Result<Self> {
        let Some(asked) = asked else {
            return Ok(Self { gid: effective.gid, account: effective, give_away: false });
        };
        if asked.account(accounts).is_none_or(|account| account.uid != effective.uid) {
            return Err(Error::OwnerNotAllowed { name: asked.user.clone(), effective: effective.name });
        }
        // A user may give its files to any group it is in.
        let gid = asked.group(accounts, &effective)?;
        Ok(Self { gid, give_away: gid != effective.gid, account: effective })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host {
        effective: u32,
    }

    const USERS: [(&str, u32, u32); 3] = [("root", 0, 0), ("postgres", 105, 110), ("other", 1000, 1000)];

    fn account((name, uid, gid): (&str, u32, u32)) -> Account {
        Account { uid, gid, name: name.to_owned() }
    }

    impl Accounts for Host {
        fn effective(&self) -> Account {
            self.by_uid(self.effective).unwrap()
        }

        fn by_name(&self, name: &str) -> Option<Account> {
            USERS.into_iter().find(|user| user.0 == name).map(account)
        }

        fn by_uid(&self, uid: u32) -> Option<Account> {
            USERS.into_iter().find(|user| user.1 == uid).map(account)
        }

        fn group(&self, name: &str) -> Option<u32> {
            (name == "dba").then_some(500)
        }

        fn groups_of(&self, account: &Account) -> Vec<u32> {
            vec![account.gid]
        }
    }

    fn asked(user: &str) -> Option<OwnerRequest> {
        Some(OwnerRequest { user: user.to_owned(), group: None })
    }

    fn recorded(user: Option<&str>, uid: u32, group: Option<&str>) -> Owner {
        Owner { uid, gid: uid, user: user.map(str::to_owned), group: group.map(str::to_owned) }
    }

    #[test]
    fn root_gives_files_to_the_recorded_user_by_name_before_number() {
        let host = Host { effective: 0 };
        let found = |owner| Ownership::resolve(None, &owner, &host).map(|o| (o.account.name, o.gid, o.give_away));
        assert_eq!(found(recorded(Some("postgres"), 1000, None)).unwrap(), ("postgres".to_owned(), 110, true));
        assert_eq!(found(recorded(Some("postgres"), 105, Some("dba"))).unwrap(), ("postgres".to_owned(), 500, true));
        assert_eq!(found(recorded(Some("pg"), 1000, None)).unwrap(), ("other".to_owned(), 1000, true));
        assert!(matches!(found(recorded(Some("pg"), 7, None)), Err(Error::UnknownOwner { name }) if name == "pg"));
    }

    #[test]
    fn root_may_ask_for_somebody_else() {
        let host = Host { effective: 0 };
        let owner = recorded(Some("postgres"), 105, Some("dba"));
        let found = Ownership::resolve(asked("other").as_ref(), &owner, &host).unwrap();
        assert_eq!((found.account.uid, found.gid), (1000, 1000));
        assert!(matches!(Ownership::resolve(asked("nobody").as_ref(), &owner, &host), Err(Error::UnknownOwner { .. })));
    }

    #[test]
    fn numbers_serve_where_there_are_no_names() {
        let request = OwnerRequest { user: "105".to_owned(), group: Some("500".to_owned()) };
        let found = Ownership::resolve(Some(&request), &recorded(None, 7, None), &Host { effective: 0 }).unwrap();
        assert_eq!((found.account.name.as_str(), found.gid), ("postgres", 500));
        let request = OwnerRequest { group: Some("nobodies".to_owned()), ..request };
        let refused = Ownership::resolve(Some(&request), &recorded(None, 7, None), &Host { effective: 0 });
        assert!(matches!(refused, Err(Error::UnknownGroup { .. })));
    }

    #[test]
    fn other_users_keep_what_they_restore() {
        let host = Host { effective: 1000 };
        let owner = recorded(Some("postgres"), 105, None);
        let found = Ownership::resolve(None, &owner, &host).unwrap();
        assert_eq!((found.account.uid, found.give_away), (1000, false));
        assert!(Ownership::resolve(asked("other").as_ref(), &owner, &host).is_ok());
        assert!(matches!(
            Ownership::resolve(asked("postgres").as_ref(), &owner, &host),
            Err(Error::OwnerNotAllowed { .. })
        ));
    }
}
