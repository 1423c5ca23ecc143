//! Spreadsheets: each sheet a table.

use std::io::Cursor;

use calamine::{
    Data, DataRef, DataType, ExcelDateTime, Reader, Sheets, open_workbook_auto_from_rs,
};

use super::archive::Archive;
use crate::documents::Unread;
use crate::documents::out::Out;

/// Columns of a row that are written; a stray cell far to the right makes no wide table.
const MAX_COLUMNS: usize = 512;

pub(super) fn read(bytes: &[u8], out: &mut Out) -> Result<(), Unread> {
    if bytes.starts_with(b"PK") {
        Archive::open(bytes)?.check()?;
    }
    let mut book = open_workbook_auto_from_rs(Cursor::new(bytes)).map_err(Unread::broken)?;
    for name in book.sheet_names() {
        if out.is_full() {
            break;
        }
        out.paragraph();
        out.push(&format!("## {name}\n\n"));
        let mut table = Table { out, row: None, cells: Vec::new(), is_first: true };
        match &mut book {
            // Cell by cell: two cells far from each other would make a table of everything between them.
            Sheets::Xlsx(book) => {
                let Ok(mut cells) = book.worksheet_cells_reader(&name) else { continue };
                while let Some(cell) = cells.next_cell().map_err(Unread::broken)? {
                    let (row, column) = cell.get_position();
                    table.cell(row, column, value(cell.get_value()));
                    if table.out.is_full() {
                        break;
                    }
                }
            }
            book => {
                let Ok(range) = book.worksheet_range(&name) else { continue };
                for (row, column, cell) in range.used_cells() {
                    table.cell(row as u32, column as u32, data(cell));
                    if table.out.is_full() {
                        break;
                    }
                }
            }
        }
        table.end_row();
    }
    Ok(())
}

/// The row that is being read.
struct Table<'o> {
    out: &'o mut Out,
    row: Option<u32>,
    cells: Vec<String>,
    is_first: bool,
}

impl Table<'_> {
    fn cell(&mut self, row: u32, column: u32, text: String) {
        let column = usize::try_from(column).unwrap_or(usize::MAX);
        if text.is_empty() || column >= MAX_COLUMNS {
            return;
        }
        if self.row != Some(row) {
            self.end_row();
            self.row = Some(row);
        }
        if self.cells.len() <= column {
            self.cells.resize(column + 1, String::new());
        }
        self.cells[column] = text;
    }

    fn end_row(&mut self) {
        if !self.cells.is_empty() {
            self.out.row(self.cells.iter().map(String::as_str), std::mem::take(&mut self.is_first));
            self.cells.clear();
        }
    }
}

fn value(cell: &DataRef<'_>) -> String {
    match cell {
        DataRef::DateTime(at) => moment(at),
        cell => cell.as_string().unwrap_or_else(|| data(&Data::from(cell.clone()))),
    }
}

fn data(cell: &Data) -> String {
    match cell {
        Data::DateTime(at) => moment(at),
        cell => cell.to_string(),
    }
}

fn moment(at: &ExcelDateTime) -> String {
    if at.is_duration() {
        return at.to_string();
    }
    let (year, month, day, hour, minute, second, _) = at.to_ymd_hms_milli();
    let date = format!("{year:04}-{month:02}-{day:02}");
    if (hour, minute, second) == (0, 0, 0) {
        return date;
    }
    format!("{date} {hour:02}:{minute:02}:{second:02}")
}
