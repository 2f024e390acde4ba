//! A zip archive of stored entries, written as PyTorch does; the fuzz targets take it too.

/// The archive of these entries; `zip64` adds the wide directory that every file of torch.save has.
pub fn zip(entries: &[(&str, &[u8])], zip64: bool) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let (size, offset) = ((data.len() as u32).to_le_bytes(), (file.len() as u32).to_le_bytes());
        // Version, flags, method (stored), time and date, CRC-32 (not looked at), sizes, name and extra field.
        let common = [&[20, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &size, &size].concat();
        let length = (name.len() as u16).to_le_bytes();
        file.extend([b"PK\x03\x04", &common[..], &length, &[0, 0], name.as_bytes(), data].concat());
        let places = [&length[..], &[0; 12], &offset].concat();
        directory.extend([b"PK\x01\x02\0\0", &common[..], &places, name.as_bytes()].concat());
    }
    let (begin, size, count) = (file.len() as u64, directory.len() as u64, entries.len() as u64);
    file.extend(directory);
    if zip64 {
        let record = file.len() as u64;
        file.extend(b"PK\x06\x06");
        file.extend(44u64.to_le_bytes());
        file.extend([0; 12]);
        file.extend([count, count, size, begin].iter().flat_map(|n| n.to_le_bytes()));
        file.extend([&b"PK\x06\x07\0\0\0\0"[..], &record.to_le_bytes(), &[1, 0, 0, 0]].concat());
    }
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count as u16, count as u16].iter().flat_map(|n| n.to_le_bytes()));
    file.extend([size as u32, begin as u32].iter().flat_map(|n| n.to_le_bytes()));
    file.extend([0, 0]);
    file
}
