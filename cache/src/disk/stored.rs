//! An object on disk, in a file of its own or in a pack.

use std::sync::Arc;

use crate::disk::object::DiskObject;
use crate::disk::packed::Entry;
use crate::disk::record::PackedRecord;
use crate::version::ObjectId;

/// An object of which something is on disk.
#[derive(Clone, Debug)]
pub(crate) enum Stored {
    /// In a file of its own, block by block.
    File(Arc<DiskObject>),
    /// In a pack, whole, as it was when it was looked for.
    Packed(Packed),
}

/// An object in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) id: ObjectId,
    pub(crate) entry: Entry,
}

impl Packed {
    /// What the catalogue says of it.
    pub(crate) fn record(&self) -> PackedRecord {
        PackedRecord { id: self.id, bytes: self.entry.bytes, used_s: self.entry.used_s }
    }
}

impl Stored {
    pub(crate) fn id(&self) -> ObjectId {
        match self {
            Self::File(object) => object.id(),
            Self::Packed(packed) => packed.id,
        }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        match self {
            Self::File(object) => object.size_bytes(),
            Self::Packed(packed) => packed.entry.bytes.into(),
        }
    }

    /// When it was used last, in milliseconds since 1970.
    pub(crate) fn last_use_ms(&self) -> u64 {
        match self {
            Self::File(object) => object.last_use_ms(),
            Self::Packed(packed) => packed.entry.used_ms(),
        }
    }

    pub(crate) fn is_present(&self, index: u32) -> bool {
        match self {
            Self::File(object) => object.is_present(index),
            Self::Packed(_) => index == 0,
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        match self {
            Self::File(object) => object.is_complete(),
            Self::Packed(_) => true,
        }
    }

    /// Bytes of the object that are on disk.
    pub(crate) fn present_bytes(&self) -> u64 {
        match self {
            Self::File(object) => object.present_bytes(),
            Self::Packed(packed) => packed.entry.bytes.into(),
        }
    }

    /// Offset of the object's first byte in its file.
    pub(crate) fn offset(&self) -> u64 {
        match self {
            Self::File(_) => 0,
            Self::Packed(packed) => packed.entry.place().offset(),
        }
    }
}
