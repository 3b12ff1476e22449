//! What S3's operations do with the storage.

mod conditions;
mod listing;
mod names;
mod part;
mod uploads;

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::header::{CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderValue};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, Bucket, BucketLocationConstraint,
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput,
    CopyObjectResult, CopySource, CreateBucketInput, CreateBucketOutput,
    CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteBucketInput, DeleteBucketOutput,
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject,
    ETag, Error as DeleteError, GetBucketLocationInput, GetBucketLocationOutput, GetObjectInput,
    GetObjectOutput, HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput,
    ListBucketsInput, ListBucketsOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, ListPartsInput, ListPartsOutput, MetadataDirective, PutObjectInput,
    PutObjectOutput, Range, StorageClass, StreamingBlob, Timestamp, UploadPartCopyInput,
    UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use self::conditions::{Conditions, Verdict};
pub(crate) use self::listing::escape_controls;
use self::part::Part;
use self::uploads::Uploads;
use crate::content::Content;
use crate::fault::Endless;
use crate::storage::{Attributes, ChecksumKind, Object, StorageError, Store};

/// Most bytes that S3 takes in one PUT.
const PUT_BYTES_MAX: i64 = 5 << 30;

/// What a fault asks of an operation, in the request's extensions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Directive {
    pub(crate) ignore_range: bool,
    pub(crate) shift_range: bool,
    pub(crate) ignore_if_match: bool,
    pub(crate) endless: Option<Endless>,
}

/// Bytes of an object, in the answer's extensions: they bypass s3s, which only sees their length.
#[derive(Clone, Debug, Default)]
pub(crate) struct Payload(pub(crate) Vec<Bytes>);

/// The operations over one storage.
#[derive(Debug)]
pub(crate) struct Operations {
    store: Arc<Store>,
    uploads: Uploads,
    region: String,
}

impl Operations {
    pub(crate) fn new(store: Arc<Store>, region: String, part_bytes_min: u64) -> Self {
        Self { store, uploads: Uploads::new(part_bytes_min), region }
    }

    /// The object that a copy reads.
    fn source(&self, source: &CopySource, conditions: &Conditions<'_>) -> S3Result<Arc<Object>> {
        let CopySource::Bucket { bucket, key, .. } = source else {
            return Err(s3_error!(NotImplemented, "only buckets can be copied from"));
        };
        let object = self.store.object(bucket, key)?;
        if object.is_archived() {
            return Err(s3_error!(InvalidObjectState));
        }
        match conditions.verdict(&object) {
            Verdict::Proceed => Ok(object),
            Verdict::NotModified | Verdict::Failed => Err(s3_error!(PreconditionFailed)),
        }
    }

    /// Refuses a write whose conditions the present object does not meet.
    fn check_write(&self, bucket: &str, key: &str, conditions: &Conditions<'_>) -> S3Result<()> {
        if conditions.is_empty() {
            return Ok(());
        }
        match self.store.object(bucket, key) {
            Ok(object) if conditions.verdict(&object) == Verdict::Proceed => Ok(()),
            Ok(_) => Err(s3_error!(PreconditionFailed)),
            Err(StorageError::NoSuchKey { .. }) if conditions.if_match.is_none() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[async_trait::async_trait]
impl S3 for Operations {
    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let directive = directive(&request);
        let input = request.input;
        let object = self.store.object(&input.bucket, &input.key)?;
        if object.is_archived() {
            let message = "The operation is not valid for the object's storage class";
            return Err(S3Error::with_message(S3ErrorCode::InvalidObjectState, message));
        }
        let conditions = Conditions {
            if_match: input.if_match.as_ref().filter(|_| !directive.ignore_if_match),
            if_none_match: input.if_none_match.as_ref(),
            if_modified_since: input.if_modified_since.as_ref(),
            if_unmodified_since: input.if_unmodified_since.as_ref(),
        };
        proceed(conditions.verdict(&object), &object)?;
        let part = Part::of(&object, input.range, directive)?;
        // S3 has the checksum of the whole object only.
        let is_whole = part.start == 0 && part.end == object.content.len_bytes();
        let is_wanted = input.checksum_mode.is_some() && is_whole;
        let (crc32c, sha256) = match object.checksum().filter(|_| is_wanted) {
            Some((ChecksumKind::Crc32c, text)) => (Some(text), None),
            Some((ChecksumKind::Sha256, text)) => (None, Some(text)),
            None => (None, None),
        };
        let output = GetObjectOutput {
            checksum_crc32c: crc32c,
            checksum_sha256: sha256,
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(length(part.end - part.start)),
            content_range: part.header,
            content_type: Some(content_type(&object)),
            e_tag: Some(ETag::Strong(object.etag.clone())),
            last_modified: Some(Timestamp::from(object.modified)),
            metadata: metadata(&object),
            storage_class: object.storage_class.clone().map(StorageClass::from),
            ..GetObjectOutput::default()
        };
        let mut response = S3Response::new(output);
        response.extensions.insert(Payload(object.content.slices(part.start, part.end)));
        Ok(response)
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let directive = directive(&request);
        let input = request.input;
        let object = self.store.object(&input.bucket, &input.key)?;
        let conditions = Conditions {
            if_match: input.if_match.as_ref().filter(|_| !directive.ignore_if_match),
            if_none_match: input.if_none_match.as_ref(),
            if_modified_since: input.if_modified_since.as_ref(),
            if_unmodified_since: input.if_unmodified_since.as_ref(),
        };
        proceed(conditions.verdict(&object), &object)?;
        let part = Part::of(&object, input.range, directive)?;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(length(part.end - part.start)),
            content_range: part.header,
            content_type: Some(content_type(&object)),
            e_tag: Some(ETag::Strong(object.etag.clone())),
            last_modified: Some(Timestamp::from(object.modified)),
            metadata: metadata(&object),
            storage_class: object.storage_class.clone().map(StorageClass::from),
            ..HeadObjectOutput::default()
        }))
    }

    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        self.store.check_bucket(&input.bucket)?;
        let content = Content::from(collect(input.body, input.content_length).await?);
        check_md5(input.content_md5.as_deref(), &content)?;
        let conditions = Conditions {
            if_match: input.if_match.as_ref(),
            if_none_match: input.if_none_match.as_ref(),
            ..Conditions::default()
        };
        self.check_write(&input.bucket, &input.key, &conditions)?;
        let attributes = Attributes {
            storage_class: input.storage_class.map(|class| class.as_str().to_owned()),
            content_type: input.content_type,
            metadata: input.metadata.unwrap_or_default().into_iter().collect(),
            ..Attributes::default()
        };
        let object = Object::new(content, attributes, SystemTime::now());
        let object = self.store.put(&input.bucket, &input.key, object)?;
        let e_tag = Some(ETag::Strong(object.etag.clone()));
        Ok(S3Response::new(PutObjectOutput { e_tag, ..PutObjectOutput::default() }))
    }

    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = request.input;
        let conditions = Conditions {
            if_match: input.copy_source_if_match.as_ref(),
            if_none_match: input.copy_source_if_none_match.as_ref(),
            if_modified_since: input.copy_source_if_modified_since.as_ref(),
            if_unmodified_since: input.copy_source_if_unmodified_since.as_ref(),
        };
        let source = self.source(&input.copy_source, &conditions)?;
        let replace = matches!(&input.metadata_directive, Some(directive) if directive.as_str() == MetadataDirective::REPLACE);
        let (content_type, metadata) = if replace {
            (input.content_type, input.metadata.unwrap_or_default().into_iter().collect())
        } else {
            (source.content_type.clone(), source.metadata.clone())
        };
        let attributes = Attributes {
            storage_class: input.storage_class.map(|class| class.as_str().to_owned()),
            content_type,
            metadata,
            ..Attributes::default()
        };
        let copy = Object::new(source.content.clone(), attributes, SystemTime::now());
        let copy = self.store.put(&input.bucket, &input.key, copy)?;
        let result = CopyObjectResult {
            e_tag: Some(ETag::Strong(copy.etag.clone())),
            last_modified: Some(Timestamp::from(copy.modified)),
            ..CopyObjectResult::default()
        };
        let copy_object_result = Some(result);
        Ok(S3Response::new(CopyObjectOutput { copy_object_result, ..CopyObjectOutput::default() }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = request.input;
        let conditions = Conditions { if_match: input.if_match.as_ref(), ..Conditions::default() };
        self.check_write(&input.bucket, &input.key, &conditions)?;
        self.store.delete(&input.bucket, &input.key)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = request.input;
        self.store.check_bucket(&input.bucket)?;
        let quiet = input.delete.quiet.unwrap_or(false);
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in input.delete.objects {
            let key = Some(object.key.clone());
            match self.store.delete(&input.bucket, &object.key) {
                Ok(_) => deleted.push(DeletedObject { key, ..DeletedObject::default() }),
                Err(error) => {
                    let error = S3Error::from(error);
                    errors.push(DeleteError {
                        code: Some(error.code().as_str().to_owned()),
                        message: error.message().map(str::to_owned),
                        key,
                        ..DeleteError::default()
                    });
                }
            }
        }
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: (!quiet).then_some(deleted),
            errors: Some(errors),
            ..DeleteObjectsOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let endless = directive(&request).endless;
        listing::version_2(&self.store, request.input, endless).map(S3Response::new)
    }

    async fn list_objects(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let endless = directive(&request).endless;
        listing::version_1(&self.store, request.input, endless).map(S3Response::new)
    }

    async fn list_buckets(
        &self,
        _: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let buckets = self.store.buckets()?.into_iter().map(|(name, created)| Bucket {
            bucket_region: Some(self.region.clone()),
            creation_date: Some(Timestamp::from(created)),
            name: Some(name),
        });
        let buckets = Some(buckets.collect());
        Ok(S3Response::new(ListBucketsOutput { buckets, ..ListBucketsOutput::default() }))
    }

    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let bucket = request.input.bucket;
        self.store.create_bucket(&bucket, SystemTime::now())?;
        let location = Some(format!("/{bucket}"));
        Ok(S3Response::new(CreateBucketOutput { location }))
    }

    async fn delete_bucket(
        &self,
        request: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        self.store.delete_bucket(&request.input.bucket)?;
        Ok(S3Response::new(DeleteBucketOutput::default()))
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.store.check_bucket(&request.input.bucket)?;
        let bucket_region = Some(self.region.clone());
        Ok(S3Response::new(HeadBucketOutput { bucket_region, ..HeadBucketOutput::default() }))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.store.check_bucket(&request.input.bucket)?;
        // S3 names every region here but its first.
        let region = Some(self.region.clone()).filter(|region| region != "us-east-1");
        let location_constraint = region.map(BucketLocationConstraint::from);
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.store.check_bucket(&request.input.bucket)?;
        Ok(S3Response::new(self.uploads.create(request.input)))
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let mut input = request.input;
        let content = Content::from(collect(input.body.take(), input.content_length).await?);
        check_md5(input.content_md5.as_deref(), &content)?;
        let part = self.uploads.put_part(&input.upload_id, input.part_number, content)?;
        let e_tag = Some(part.etag());
        Ok(S3Response::new(UploadPartOutput { e_tag, ..UploadPartOutput::default() }))
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let input = request.input;
        let conditions = Conditions {
            if_match: input.copy_source_if_match.as_ref(),
            if_none_match: input.copy_source_if_none_match.as_ref(),
            if_modified_since: input.copy_source_if_modified_since.as_ref(),
            if_unmodified_since: input.copy_source_if_unmodified_since.as_ref(),
        };
        let source = self.source(&input.copy_source, &conditions)?;
        let range = input.copy_source_range.as_deref().map(Range::parse).transpose();
        let range = range.map_err(|error| s3_error!(error, InvalidArgument))?;
        let part = Part::of(&source, range, Directive::default())?;
        let slices = source.content.slices(part.start, part.end);
        let content = Content::Parts(slices.into_iter().map(Content::from).collect());
        let part = self.uploads.put_part(&input.upload_id, input.part_number, content)?;
        let copy_part_result = Some(part.copy_result());
        Ok(S3Response::new(UploadPartCopyOutput {
            copy_part_result,
            ..UploadPartCopyOutput::default()
        }))
    }

    async fn list_parts(
        &self,
        request: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        self.uploads.list_parts(request.input).map(S3Response::new)
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let conditions = Conditions {
            if_match: input.if_match.as_ref(),
            if_none_match: input.if_none_match.as_ref(),
            ..Conditions::default()
        };
        self.check_write(&input.bucket, &input.key, &conditions)?;
        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let object = self.uploads.complete(&input.upload_id, &named)?;
        let object = self.store.put(&input.bucket, &input.key, object)?;
        self.uploads.forget(&input.upload_id)?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(object.etag.clone())),
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.uploads.forget(&request.input.upload_id)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}

fn directive<T>(request: &S3Request<T>) -> Directive {
    request.extensions.get().copied().unwrap_or_default()
}

/// Turns a verdict that ends the request into its answer.
fn proceed(verdict: Verdict, object: &Object) -> S3Result<()> {
    let code = match verdict {
        Verdict::Proceed => return Ok(()),
        Verdict::NotModified => S3ErrorCode::NotModified,
        Verdict::Failed => S3ErrorCode::PreconditionFailed,
    };
    let mut error = S3Error::with_message(
        code,
        "At least one of the pre-conditions you specified did not hold",
    );
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    let etag = HeaderValue::from_str(&format!("\"{}\"", object.etag));
    headers.extend(etag.ok().map(|etag| (ETAG, etag)));
    error.set_headers(headers);
    Err(error)
}

async fn collect(body: Option<StreamingBlob>, length: Option<i64>) -> S3Result<Bytes> {
    let Some(body) = body else { return Ok(Bytes::new()) };
    if length.is_some_and(|length| length > PUT_BYTES_MAX) {
        return Err(s3_error!(EntityTooLarge));
    }
    let pieces: Vec<Bytes> = body.try_collect().await.map_err(|source| {
        // A body that does not have the hash it was signed with fails here too.
        S3Error::with_source(S3ErrorCode::IncompleteBody, source)
    })?;
    let bytes = match <[Bytes; 1]>::try_from(pieces) {
        Ok([only]) => only,
        Err(pieces) => pieces.concat().into(),
    };
    let expected = length.and_then(|length| usize::try_from(length).ok());
    if expected.is_some_and(|expected| expected != bytes.len()) {
        return Err(s3_error!(IncompleteBody));
    }
    Ok(bytes)
}

fn check_md5(expected: Option<&str>, content: &Content) -> S3Result<()> {
    match expected {
        Some(expected) if expected != names::base64(&content.md5_digest()) => Err(s3_error!(
            BadDigest,
            "The Content-MD5 you specified did not match what we received"
        )),
        _ => Ok(()),
    }
}

fn content_type(object: &Object) -> String {
    object.content_type.clone().unwrap_or_else(|| "binary/octet-stream".to_owned())
}

fn metadata(object: &Object) -> Option<s3s::dto::Metadata> {
    let metadata = &object.metadata;
    (!metadata.is_empty())
        .then(|| metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// S3 counts lengths in signed numbers.
fn length(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl From<StorageError> for S3Error {
    fn from(error: StorageError) -> Self {
        let code = match error {
            StorageError::NoSuchBucket { .. } => S3ErrorCode::NoSuchBucket,
            StorageError::BucketExists { .. } => S3ErrorCode::BucketAlreadyOwnedByYou,
            StorageError::BucketNotEmpty { .. } => S3ErrorCode::BucketNotEmpty,
            StorageError::NoSuchKey { .. } => S3ErrorCode::NoSuchKey,
            StorageError::InvalidName { .. } => S3ErrorCode::InvalidArgument,
            StorageError::Io { .. } => S3ErrorCode::InternalError,
        };
        let message = error.to_string();
        let mut answer = Self::with_source(code, Box::new(error));
        answer.set_message(message);
        answer
    }
}
