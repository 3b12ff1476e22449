//! Multipart uploads under way.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use s3s::dto::{
    CompletedPart, CopyPartResult, CreateMultipartUploadInput, CreateMultipartUploadOutput, ETag,
    ListPartsInput, ListPartsOutput, Part as ListedPart, Timestamp,
};
use s3s::{S3Error, S3Result, s3_error};

use super::length;
use crate::content::{Content, etag_of_parts, hex, mix};
use crate::storage::{Attributes, Object, whole_seconds};

/// Part numbers go from 1 to this.
const PARTS_MAX: i32 = 10_000;

#[derive(Debug)]
pub(super) struct Uploads {
    /// Least size of every part but the last.
    part_bytes_min: u64,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    uploads: HashMap<String, Upload>,
    created: u64,
}

#[derive(Debug)]
struct Upload {
    attributes: Attributes,
    parts: BTreeMap<i32, Arc<Part>>,
}

/// A part that was put.
#[derive(Debug)]
pub(super) struct Part {
    content: Content,
    md5: [u8; 16],
    modified: SystemTime,
}

impl Part {
    pub(super) fn etag(&self) -> ETag {
        ETag::Strong(hex(&self.md5))
    }

    pub(super) fn copy_result(&self) -> CopyPartResult {
        CopyPartResult {
            e_tag: Some(self.etag()),
            last_modified: Some(Timestamp::from(self.modified)),
            ..CopyPartResult::default()
        }
    }
}

impl Uploads {
    pub(super) fn new(part_bytes_min: u64) -> Self {
        Self { part_bytes_min, table: Mutex::default() }
    }

    pub(super) fn create(&self, input: CreateMultipartUploadInput) -> CreateMultipartUploadOutput {
        let attributes = Attributes {
            storage_class: input.storage_class.map(|class| class.as_str().to_owned()),
            content_type: input.content_type,
            metadata: input.metadata.unwrap_or_default().into_iter().collect(),
            ..Attributes::default()
        };
        let mut table = self.table();
        table.created += 1;
        let id = format!("{:016x}{:016x}", mix(table.created), table.created);
        table.uploads.insert(id.clone(), Upload { attributes, parts: BTreeMap::new() });
        CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        }
    }

    pub(super) fn put_part(&self, id: &str, number: i32, content: Content) -> S3Result<Arc<Part>> {
        if !(1..=PARTS_MAX).contains(&number) {
            return Err(s3_error!(InvalidArgument, "a part number is from 1 to 10000"));
        }
        let md5 = content.md5_digest();
        let part = Arc::new(Part { content, md5, modified: whole_seconds(SystemTime::now()) });
        let mut table = self.table();
        let upload = table.uploads.get_mut(id).ok_or_else(no_such_upload)?;
        upload.parts.insert(number, Arc::clone(&part));
        Ok(part)
    }

    pub(super) fn list_parts(&self, input: ListPartsInput) -> S3Result<ListPartsOutput> {
        let table = self.table();
        let upload = table.uploads.get(&input.upload_id).ok_or_else(no_such_upload)?;
        let behind = input.part_number_marker.unwrap_or(0);
        let max = usize::try_from(input.max_parts.unwrap_or(1000).clamp(0, 1000)).unwrap_or(0);
        let mut rest = upload.parts.range(behind.saturating_add(1)..);
        let parts: Vec<ListedPart> = rest
            .by_ref()
            .take(max)
            .map(|(number, part)| ListedPart {
                e_tag: Some(part.etag()),
                last_modified: Some(Timestamp::from(part.modified)),
                part_number: Some(*number),
                size: Some(length(part.content.len_bytes())),
                ..ListedPart::default()
            })
            .collect();
        let truncated = rest.next().is_some();
        let last = parts.last().and_then(|part| part.part_number);
        Ok(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            is_truncated: Some(truncated),
            max_parts: i32::try_from(max).ok(),
            next_part_number_marker: last.filter(|_| truncated),
            part_number_marker: Some(behind),
            parts: Some(parts),
            ..ListPartsOutput::default()
        })
    }

    /// The object that the named parts make. The upload stays until it is forgotten.
    pub(super) fn complete(&self, id: &str, named: &[CompletedPart]) -> S3Result<Object> {
        let table = self.table();
        let upload = table.uploads.get(id).ok_or_else(no_such_upload)?;
        if named.is_empty() {
            return Err(s3_error!(MalformedXML, "a complete upload names at least one part"));
        }
        let mut parts: Vec<&Arc<Part>> = Vec::new();
        let mut last = 0;
        for name in named {
            let number = name.part_number.unwrap_or(0);
            if number <= last {
                return Err(s3_error!(InvalidPartOrder));
            }
            last = number;
            let part = upload.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
            if name.e_tag.as_ref().is_some_and(|etag| *etag != part.etag()) {
                return Err(s3_error!(InvalidPart));
            }
            parts.push(part);
        }
        let (_, full) = parts.split_last().ok_or_else(|| s3_error!(InvalidPart))?;
        if full.iter().any(|part| part.content.len_bytes() < self.part_bytes_min) {
            return Err(s3_error!(EntityTooSmall));
        }
        let digests: Vec<[u8; 16]> = parts.iter().map(|part| part.md5).collect();
        let attributes =
            Attributes { etag: Some(etag_of_parts(&digests)), ..upload.attributes.clone() };
        let content = Content::Parts(parts.iter().map(|part| part.content.clone()).collect());
        Ok(Object::new(content, attributes, SystemTime::now()))
    }

    pub(super) fn forget(&self, id: &str) -> S3Result<()> {
        self.table().uploads.remove(id).map(|_| ()).ok_or_else(no_such_upload)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_such_upload() -> S3Error {
    s3_error!(NoSuchUpload, "The specified upload does not exist")
}
