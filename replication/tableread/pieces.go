package tableread

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"outflow/replication/wal"
)

// A value may be a gigabyte, and the driver takes in a row whole before a caller can look at the row. So the primary measures each row, and
// leaves out the values of a row larger than asked for: a [piece] is read with a bound in bytes, counted by the caller before the read.

// typesMeasured are the types whose text has the length told by octet_length, without the value being read from TOAST: text, varchar.
// typesShort are types of short texts, which count nothing. The text of any other type is made once, and measured.
var (
	typesMeasured = map[uint32]bool{25: true, 1043: true}
	typesShort    = map[uint32]bool{16: true, 18: true, 19: true, 20: true, 21: true, 23: true, 26: true, 700: true, 701: true, 1082: true, 1083: true,
		1114: true, 1184: true, 1186: true, 1266: true, 2950: true, 3220: true}
)

// measured is a query for rows of the table: their place, their size in bytes, and the texts of the columns (indexes of s.Table), NULL in
// a row larger than the bound. rest is everything behind FROM of the query for the rows; place is an expression there.
//
// The texts are made above the sort and the limit of the query. format('%s') gives the text of the output function, which a cast to text
// does not give for every type (bpchar, inet, bool). OFFSET 0 keeps the planner from making the texts twice.
func (s *shape) measured(place string, columns []int, rest string, bound int64) string {
	raw, texts, sizes, out := []string{place + " AS n"}, []string{}, []string{"0::bigint"}, []string{}
	for k, i := range columns {
		c := s.Table.Columns[i]
		raw = append(raw, fmt.Sprintf("t.%s AS c%d", pgx.Identifier{c.Name}.Sanitize(), k))
		text := fmt.Sprintf("r.c%d", k)
		if !typesShort[c.TypeOID] {
			if !typesMeasured[c.TypeOID] {
				text = fmt.Sprintf("CASE num_nulls(r.c%d) WHEN 0 THEN format('%%s', r.c%d) END", k, k)
			}
			sizes = append(sizes, fmt.Sprintf("coalesce(octet_length(v.v%d), 0)", k))
		}
		texts = append(texts, fmt.Sprintf("%s AS v%d", text, k))
		out = append(out, fmt.Sprintf("CASE WHEN z.size <= %d THEN v.v%d END", bound, k))
	}
	if len(sizes) == 1 {
		return fmt.Sprintf("SELECT %s FROM %s", strings.Join(append([]string{place, "0"}, s.list(columns)...), ", "), rest)
	}
	return fmt.Sprintf("SELECT r.n, z.size, %s FROM (SELECT %s FROM %s) AS r CROSS JOIN LATERAL (SELECT %s OFFSET 0) AS v CROSS JOIN LATERAL (SELECT %s AS size OFFSET 0) AS z",
		strings.Join(out, ", "), strings.Join(raw, ", "), rest, strings.Join(texts, ", "), strings.Join(sizes, " + "))
}

func (s *shape) list(columns []int) []string {
	list := make([]string, len(columns))
	for k, i := range columns {
		list[k] = "t." + pgx.Identifier{s.Table.Columns[i].Name}.Sanitize()
	}
	return list
}

// all are the indexes of the table's columns.
func (s *shape) all() []int {
	all := make([]int, len(s.Table.Columns))
	for i := range all {
		all[i] = i
	}
	return all
}

// piece is the rows at the beginning of a query.
type piece struct {
	rows   []wal.Tuple
	places []int // by row, as the query gives the place
	more   bool  // rows follow: the bound was reached
	large  int64 // size of the next row where the row alone is larger than the bound, 0 mostly; then there are no rows
}

const cursorName = "outflow_piece"

// openPiece declares the cursor of a query made by measured. The rows are those of the moment of the declaration.
func openPiece(ctx context.Context, conn *pgx.Conn, sql string, args ...any) error {
	_, err := conn.Exec(ctx, "DECLARE "+cursorName+" NO SCROLL CURSOR FOR "+sql, args...)
	return err
}

// readPiece reads rows from the open cursor until the rows have bound bytes, or the row after would be larger than the bound. The rows are
// fetched a few at a time, as many as make about an eighth of the bound; rows beyond the bound are passed over, and not kept. The bound
// counts the bytes of [wal.Tuple.Bytes]; the last row may go beyond the bound by the form of its values, some bytes a value.
func readPiece(ctx context.Context, conn *pgx.Conn, bound int64) (p piece, err error) {
	for n, size := int64(fetchFirst), int64(0); ; {
		fetched, more, err := p.fetch(ctx, conn, n, bound-size)
		if err != nil || p.more || !more {
			return p, err
		}
		size += fetched
		n = max(1, min(bound/8*int64(len(p.rows))/(size+1), 2*int64(len(p.rows)), fetchMost))
	}
}

// Rows in one FETCH.
const (
	fetchFirst = 10
	fetchMost  = 2000
)

// fetch adds n rows at most, and bytes at most, and returns the size of the added rows. more says that there may be more rows.
func (p *piece) fetch(ctx context.Context, conn *pgx.Conn, n, left int64) (size int64, more bool, err error) {
	rows, err := conn.Query(ctx, fmt.Sprintf("FETCH %d FROM %s", n, cursorName), pgx.QueryResultFormats{pgx.TextFormatCode})
	if err != nil {
		return 0, false, err
	}
	defer rows.Close()
	seen := int64(0)
	for ; rows.Next(); seen++ {
		if p.more {
			continue
		}
		raw := rows.RawValues()
		place, err := strconv.Atoi(string(raw[0]))
		if err != nil {
			return 0, false, fmt.Errorf("%q is not the position of a row: %w", raw[0], err)
		}
		if large, err := strconv.ParseInt(string(raw[1]), 10, 64); err != nil {
			return 0, false, fmt.Errorf("%q is not the size of a row: %w", raw[1], err)
		} else if large > left {
			if p.more = true; len(p.rows) == 0 {
				p.large = large
			}
			continue
		}
		t := textTuple(raw[2:])
		p.rows, p.places = append(p.rows, t), append(p.places, place)
		bytes := int64(t.Bytes())
		size, left = size+bytes, left-bytes
	}
	return size, seen == n, rows.Err()
}
