//! Buckets in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use super::listing::{self, Key, ListQuery};
use super::{Listed, ListedPage, Object, StorageError, no_such_bucket, no_such_key};

#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    buckets: RwLock<BTreeMap<String, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    created: SystemTime,
    objects: BTreeMap<Key, Arc<Object>>,
}

type Buckets = BTreeMap<String, Bucket>;

impl MemoryStore {
    pub(crate) fn buckets(&self) -> Vec<(String, SystemTime)> {
        self.read().iter().map(|(name, bucket)| (name.clone(), bucket.created)).collect()
    }

    pub(crate) fn create_bucket(&self, bucket: &str, now: SystemTime) -> Result<(), StorageError> {
        let mut buckets = self.write();
        if buckets.contains_key(bucket) {
            return Err(StorageError::BucketExists { bucket: bucket.to_owned() });
        }
        buckets.insert(bucket.to_owned(), Bucket { created: now, objects: BTreeMap::new() });
        Ok(())
    }

    pub(crate) fn delete_bucket(&self, bucket: &str) -> Result<(), StorageError> {
        let mut buckets = self.write();
        if !bucket_of(&buckets, bucket)?.objects.is_empty() {
            return Err(StorageError::BucketNotEmpty { bucket: bucket.to_owned() });
        }
        buckets.remove(bucket);
        Ok(())
    }

    pub(crate) fn check_bucket(&self, bucket: &str) -> Result<(), StorageError> {
        bucket_of(&self.read(), bucket).map(|_| ())
    }

    pub(crate) fn object(&self, bucket: &str, key: &str) -> Result<Arc<Object>, StorageError> {
        let buckets = self.read();
        let object = bucket_of(&buckets, bucket)?.objects.get(key.as_bytes());
        object.cloned().ok_or_else(|| no_such_key(key))
    }

    pub(crate) fn put(
        &self,
        bucket: &str,
        key: &str,
        object: Object,
    ) -> Result<Arc<Object>, StorageError> {
        let object = Arc::new(object);
        let mut buckets = self.write();
        let bucket = buckets.get_mut(bucket).ok_or_else(|| no_such_bucket(bucket))?;
        bucket.objects.insert(Key(key.into()), Arc::clone(&object));
        Ok(object)
    }

    pub(crate) fn delete(&self, bucket: &str, key: &str) -> Result<bool, StorageError> {
        let mut buckets = self.write();
        let bucket = buckets.get_mut(bucket).ok_or_else(|| no_such_bucket(bucket))?;
        Ok(bucket.objects.remove(key.as_bytes()).is_some())
    }

    pub(crate) fn list(
        &self,
        bucket: &str,
        query: &ListQuery<'_>,
    ) -> Result<ListedPage, StorageError> {
        let buckets = self.read();
        let page = listing::list(&bucket_of(&buckets, bucket)?.objects, query);
        let listed = |(key, object): (&Arc<str>, &Arc<Object>)| Listed {
            key: Arc::clone(key),
            size_bytes: object.content.len_bytes(),
            etag: object.etag.clone(),
            modified: object.modified,
            storage_class: object.storage_class.clone(),
        };
        Ok(ListedPage {
            objects: page.objects.into_iter().map(listed).collect(),
            prefixes: page.prefixes,
            next: page.next,
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, Buckets> {
        self.buckets.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Buckets> {
        self.buckets.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bucket_of<'a>(buckets: &'a Buckets, bucket: &str) -> Result<&'a Bucket, StorageError> {
    buckets.get(bucket).ok_or_else(|| no_such_bucket(bucket))
}
