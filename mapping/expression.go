package mapping

import "slices"

// walk reads expressions in [i, end), a list of expressions or whole clauses, and gives the labels on the way. sorted are the labels of
// the query of an ORDER BY: there, a label alone is the label and not a column.
func (r *reading) walk(i, end int, s *scope, sorted map[string]bool) (labels map[string]bool) {
	labels = map[string]bool{}
	for i < end {
		t := r.at(i)
		switch {
		case t.op("("):
			i = r.parentheses(i, end, s)
			continue
		case !t.name():
			i++
			continue
		case r.keyword(i, "set") && r.at(i-1).is("update") && r.at(i-2).is("do"):
			next := r.find(i+1, end, "where", "returning")
			r.assignments(i+1, next, s)
			i = next
			continue
		case r.isLabel(i):
			labels[t.text] = true
		case r.at(i - 1).op("."):
			r.qualified(i, s)
		case sorted[t.text] && r.sortsAlone(i, end):
		case r.isColumn(i):
			r.unqualified(i, s)
		}
		i = r.behindType(i)
	}
	return labels
}

// parentheses reads the tokens inside and gives the place behind.
func (r *reading) parentheses(i, end int, s *scope) int {
	behind := min(end, r.partner[i])
	switch inner := i + 1; {
	case r.isQuery(inner, behind):
		r.query(inner, behind, s)
	case inner+1 == behind && r.at(inner).name() && s.is(r.at(inner).text) && r.at(behind+1).op(".") && r.at(behind+2).name():
		r.references = append(r.references, reference{name: r.at(behind + 2).text, offset: r.at(behind + 2).offset, sure: true}) // (alias).column
	case r.at(i-1).is("extract") && r.at(inner+1).is("from"):
		r.walk(inner+1, behind, s, nil)
	default:
		r.walk(inner, behind, s, nil)
	}
	return behind + 1
}

// qualified notes a name behind a dot.
func (r *reading) qualified(i int, s *scope) {
	if before := r.at(i - 2); before.name() && s.is(before.text) && !r.at(i+1).op("(") {
		r.references = append(r.references, reference{name: r.at(i).text, offset: r.at(i).offset, sure: true})
	}
}

// unqualified notes a name that may be a column of the relation, or is the relation itself.
func (r *reading) unqualified(i int, s *scope) {
	t := r.at(i)
	switch {
	case s.is(t.text):
		r.refuse(i, "%s is a whole row of %s, and only columns that the SQL names leave the primary: name the columns; write a column of that name as %s.%s",
			quote(t.text), quote(r.relation), quote(t.text), quote(t.text))
	case s.visible():
		r.references = append(r.references, reference{name: t.text, offset: t.offset})
	}
}

// isColumn reports whether a name can be a column, or an alias: the qualifiers, functions, keywords, types and names of
// arguments, collations and windows cannot.
func (r *reading) isColumn(i int) bool {
	t, before, next := r.at(i), r.at(i-1), r.at(i+1)
	switch {
	case t.kind == word && reserved[t.text], next.op("."), next.op("("), next.kind == literal, r.defined[i]:
		return false
	case before.op("(") && r.at(i-2).is("over"), before.is("name") && before.kind == word && xmlNamed[r.at(i-3).text]: // a window, an element
		return false
	case t.is("name") && xmlNamed[r.at(i-2).text], t.is("partition") && next.is("by"), t.is("nulls") && (next.is("first") || next.is("last")):
		return false
	case r.touch(i+1, "=", ">"), r.touch(i+1, ":", "="): // the name of an argument
		return false
	case r.touch(i-2, ":", ":"), before.is("collate"), before.is("window"), before.is("over"):
		return false
	}
	return t.kind == quoted || !slices.Contains(pairs[t.text], before.text) || before.kind != word
}

// touch reports whether two characters stand at i, side by side.
func (r *reading) touch(i int, first, second string) bool {
	return r.at(i).op(first) && r.at(i+1).op(second) && r.at(i).end == r.at(i+1).offset
}

// xmlNamed are the functions whose first argument is NAME and a name.
var xmlNamed = map[string]bool{"xmlelement": true, "xmlpi": true}

// pairs are words that are keywords behind certain words, and may be columns elsewhere.
var pairs = map[string][]string{
	"by": {"order", "group", "partition"}, "first": {"nulls", "fetch"}, "last": {"nulls"}, "next": {"fetch"},
	"update": {"do"}, "nothing": {"do"}, "time": {"at"}, "zone": {"time"}, "precision": {"double"}, "varying": {"character", "char", "bit"},
}

// behindType is the place behind a name; behind all words of the name of a type with several words.
func (r *reading) behindType(i int) int {
	if !r.touch(i-2, ":", ":") && !r.at(i-1).is("as") {
		return i + 1
	}
	t, next := r.at(i), r.at(i+1)
	switch {
	case t.is("double") && next.is("precision"), t.is("character") && next.is("varying"), t.is("bit") && next.is("varying"):
		return i + 2
	case (t.is("time") || t.is("timestamp")) && (next.is("with") || next.is("without")) && r.at(i+2).is("time"):
		return i + 4
	}
	return i + 1
}

// sortsAlone reports whether a name is the whole sort key.
func (r *reading) sortsAlone(i, end int) bool {
	alone := i+1 >= end || r.at(i+1).op(",") || r.keyword(i+1, "asc", "desc", "nulls", "using")
	return alone && (r.at(i-1).op(",") || r.at(i-1).is("by"))
}

// isLabel reports whether a name is the label of the expression before, or the type of a CAST: the name stands behind AS, or behind the
// end of an expression, where only a label or a keyword can stand.
func (r *reading) isLabel(i int) bool {
	t, before := r.at(i), r.at(i-1)
	switch {
	case before.is("as"):
		return true
	case t.kind == word && reserved[t.text]:
		return false
	case before.kind == literal || before.kind == number || before.kind == quoted || before.op("]"):
		return true
	case before.op(")"):
		open := r.partner[i-1]
		distinct := r.at(open-1).is("on") && r.at(open-2).is("distinct")
		return open >= 0 && !distinct && !r.at(open-1).is("operator")
	case before.kind != word:
		return false
	case r.at(i - 2).op("."):
		return true
	case before.is("zone") && r.at(i-2).is("time") && !r.at(i-3).is("at"): // the end of a type
		return true
	}
	return ends[before.text] || !reserved[before.text] && !openers[before.text]
}
