//! Access to the objects of a repository by what they are.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;

use super::document::{self, Document};
use super::envelope;
use super::error::{Error, Result};
use super::layout::{self, ClusterName, LineageLayout};
use super::lineage::{Lineage, LineageId, RepositoryIdentity};
use crate::clock::Clock;
use crate::storage::{ErrorKind, KeyPrefix, ObjectKey, ObjectMeta, ObjectStore, Payload, PutMode};

/// No document of ours is larger; a larger object is damage.
const MAX_DOCUMENT_BYTES: u64 = 64 << 20;

/// A repository that exists.
#[derive(Clone, Debug)]
pub struct Repository {
    store: Arc<dyn ObjectStore>,
    identity: RepositoryIdentity,
}

impl Repository {
    /// # Errors
    /// [`Error::NotARepository`] where the store answers that there is none.
    pub async fn open(store: Arc<dyn ObjectStore>) -> Result<Self> {
        match get_document(store.as_ref(), &layout::repository_key()).await {
            Ok(identity) => Ok(Self { store, identity }),
            Err(error) if error.is_not_found() => Err(Error::NotARepository),
            Err(error) => Err(error),
        }
    }

    /// Opens the repository, and makes it first where there is none.
    ///
    /// # Errors
    /// The store fails, or the repository cannot be read by this version.
    pub async fn open_or_create(store: Arc<dyn ObjectStore>, clock: &dyn Clock) -> Result<Self> {
        match Self::open(Arc::clone(&store)).await {
            Err(Error::NotARepository) => {}
            opened => return opened,
        }
        let identity = RepositoryIdentity { id: format!("{:032x}", rand::random::<u128>()), created: clock.now() };
        match create_document(store.as_ref(), &layout::repository_key(), &identity).await {
            Ok(_) => Ok(Self { store, identity }),
            Err(Error::Storage(error)) if error.kind() == ErrorKind::AlreadyExists => Self::open(store).await,
            Err(error) => Err(error),
        }
    }

    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    #[must_use]
    pub fn identity(&self) -> &RepositoryIdentity {
        &self.identity
    }

    /// The names of all clusters, sorted.
    ///
    /// # Errors
    /// The store fails.
    pub async fn clusters(&self) -> Result<Vec<ClusterName>> {
        let children = self.store.list_children(&KeyPrefix::root()).await?;
        Ok(children.iter().filter_map(|child| child.name().parse().ok()).collect())
    }

    /// The lineages of `cluster`, oldest first.
    ///
    /// # Errors
    /// The store fails, or a `lineage.json` cannot be read.
    pub async fn lineages(&self, cluster: &ClusterName) -> Result<Vec<LineageStore>> {
        let mut found = Vec::new();
        for child in self.store.list_children(&layout::cluster_prefix(cluster)).await? {
            let Ok(id) = child.name().parse::<LineageId>() else { continue };
            let layout = LineageLayout::new(cluster, id);
            match get_document::<Lineage>(self.store.as_ref(), &layout.lineage()).await {
                Ok(lineage) if lineage.cluster == *cluster && lineage.lineage == id => {
                    found.push(self.lineage(lineage));
                }
                Ok(lineage) => {
                    let reason =
                        format!("it is that of lineage {} of cluster \"{}\"", lineage.lineage, lineage.cluster);
                    return Err(Error::Corrupt { key: layout.lineage(), reason });
                }
                Err(error) if error.is_not_found() => self.expect_nothing(&layout).await?,
                Err(error) => return Err(error),
            }
        }
        found.sort_by_key(|store: &LineageStore| (store.lineage.created, store.lineage.lineage));
        Ok(found)
    }

    /// A lineage begins with its `lineage.json`: where that is not there, nothing may be. To pass over WAL and backups
    /// would be to restore from an older lineage as if it were the newest.
    async fn expect_nothing(&self, layout: &LineageLayout) -> Result<()> {
        let root = layout.root();
        // One object below is enough to know.
        let first = self.store.list(&root).try_next().await?;
        match first.filter(|object| object.key != layout.lineage()) {
            None => Ok(()),
            Some(object) => {
                let reason = format!("it is missing, and \"{}\" is there", object.key);
                Err(Error::Corrupt { key: layout.lineage(), reason })
            }
        }
    }

    /// The lineage that `wanted` describes, made where it does not exist yet.
    ///
    /// # Errors
    /// [`Error::WrongCluster`] where it exists with another segment size.
    pub async fn ensure_lineage(&self, wanted: &Lineage) -> Result<LineageStore> {
        let key = LineageLayout::new(&wanted.cluster, wanted.lineage).lineage();
        match create_document(self.store.as_ref(), &key, wanted).await {
            Ok(_) => return Ok(self.lineage(wanted.clone())),
            Err(Error::Storage(error)) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let existing: Lineage = get_document(self.store.as_ref(), &key).await?;
        if existing.wal_segment_size != wanted.wal_segment_size {
            let reason = format!(
                "its WAL segments have {} bytes, those of lineage {} have {}",
                u32::from(wanted.wal_segment_size),
                existing.lineage,
                u32::from(existing.wal_segment_size)
            );
            return Err(Error::WrongCluster { reason });
        }
        Ok(self.lineage(existing))
    }

    fn lineage(&self, lineage: Lineage) -> LineageStore {
        let layout = LineageLayout::new(&lineage.cluster, lineage.lineage);
        LineageStore { store: Arc::clone(&self.store), layout, lineage }
    }
}

/// The objects of one lineage.
#[derive(Clone, Debug)]
pub struct LineageStore {
    store: Arc<dyn ObjectStore>,
    layout: LineageLayout,
    lineage: Lineage,
}

impl LineageStore {
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    #[must_use]
    pub fn layout(&self) -> &LineageLayout {
        &self.layout
    }

    #[must_use]
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// # Errors
    /// See [`get_document`].
    pub async fn get<T: Document>(&self, key: &ObjectKey) -> Result<T> {
        get_document(self.store.as_ref(), key).await
    }

    /// # Errors
    /// See [`create_document`].
    pub async fn create<T: Document>(&self, key: &ObjectKey, document: &T) -> Result<ObjectMeta> {
        create_document(self.store.as_ref(), key, document).await
    }

    /// Every object under `prefix`, in key order.
    ///
    /// # Errors
    /// The store fails; never a partial list.
    pub async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<ObjectMeta>> {
        Ok(self.store.list(prefix).try_collect().await?)
    }

    /// The header and the zstd frames of an enveloped object of at most `limit` bytes.
    ///
    /// # Errors
    /// The store fails, or the object is not of that kind.
    pub async fn get_enveloped<T: Document>(&self, key: &ObjectKey, limit: u64) -> Result<(T, Bytes)> {
        let object = self.store.get(key, None).await?.bytes(limit).await?;
        let (header, frames) =
            envelope::open(&object).map_err(|source| Error::Envelope { key: key.clone(), source })?;
        Ok((header, object.slice_ref(frames)))
    }
}

/// Reads a sealed document.
///
/// # Errors
/// The store fails, or the object is not a whole document of this kind.
pub async fn get_document<T: Document>(store: &dyn ObjectStore, key: &ObjectKey) -> Result<T> {
    let bytes = store.get(key, None).await?.bytes(MAX_DOCUMENT_BYTES).await?;
    document::unseal(&bytes).map_err(|source| Error::Document { key: key.clone(), source })
}

/// Writes a sealed document where there is none.
///
/// # Errors
/// The store fails; [`ErrorKind::AlreadyExists`] where the object exists, whatever it holds.
pub async fn create_document<T: Document>(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    document: &T,
) -> Result<ObjectMeta> {
    Ok(store.put(key, Payload::from(document::seal(document)), PutMode::CreateNew).await?)
}
