package mapping

// tables reads the list behind FROM or USING: the visible relations, and the expressions in the list.
func (r *reading) tables(i, end int, s *scope) {
	natural := -1
	for i < end {
		switch t := r.at(i); {
		case t.op(","), r.keyword(i, "inner", "left", "right", "full", "outer", "cross", "join", "lateral", "only"):
			i++
		case r.keyword(i, "natural"):
			natural = i
			i++
		case r.keyword(i, "on"):
			i++
			behind := r.condition(i, end)
			r.walk(i, behind, s, nil)
			i = behind
		case r.keyword(i, "using"): // the columns are of both sides
			behind := r.behind(i+1, end)
			r.walk(i+1, behind, s, nil)
			if i = behind; r.at(i).is("as") {
				i += 2
			}
		default:
			i = r.table(i, end, s)
		}
	}
	if natural >= 0 && s.reads {
		r.refuse(natural, "NATURAL JOIN joins by all common columns, and only columns that the SQL names leave the primary: use USING (...) or ON")
	}
}

// condition is where the condition of a join ends.
func (r *reading) condition(i, end int) int {
	for ; i < end; i++ {
		switch t := r.at(i); {
		case t.op("("):
			i = r.partner[i]
		case t.op("["):
			i = r.bracket(i, end)
		case t.op(","), r.keyword(i, "join", "on", "using"),
			r.keyword(i, "inner", "left", "right", "full", "cross", "natural") && !r.at(i+1).op("("):
			return i
		}
	}
	return end
}

// table reads one table, subquery, function or join in parentheses, with its alias, and gives the place behind.
func (r *reading) table(i, end int, s *scope) int {
	relation := false
	name := ""
	switch {
	case r.at(i).op("("):
		behind := min(end, r.partner[i])
		if r.isQuery(i+1, behind) {
			r.query(i+1, behind, s)
		} else {
			inner := &scope{outer: s}
			r.tables(i+1, behind, inner)
			for alias, is := range inner.names {
				s.add(alias, is)
			}
			relation = inner.reads
		}
		i = behind + 1
	case r.at(i).name():
		for r.at(i + 1).op(".") {
			name = "." // of a schema, and so not a CTE
			i += 2
		}
		relation = name == "" && r.at(i).text == r.relation
		name = r.at(i).text
		i++
		if r.at(i).is("from") && name == "rows" { // ROWS FROM (...)
			i++
		}
		for r.at(i).op("(") && i < end { // a function
			relation = false
			r.define(i+1, min(end, r.partner[i]))
			r.walk(i+1, min(end, r.partner[i]), s, nil)
			i = r.partner[i] + 1
		}
		if r.at(i).is("with") && r.at(i+1).is("ordinality") {
			i += 2
		}
		if r.at(i).op("*") {
			i++
		}
	default:
		r.walk(i, i+1, s, nil) // not understood
		return i + 1
	}
	return r.alias(i, end, s, name, relation)
}

// define notes the columns that the arguments of XMLTABLE, JSON_TABLE or ROWS FROM define, with their types: the names before PATH and
// DEFAULT in the lists behind COLUMNS, and behind AS.
func (r *reading) define(i, end int) {
	for ; i < end; i++ {
		switch {
		case r.at(i).op("(") && (r.at(i-1).is("columns") || r.at(i-1).is("as")):
			r.defineList(i+1, r.partner[i])
		case r.at(i).op("("):
			i = r.partner[i]
		case r.at(i).is("columns") && !r.at(i+1).op("("):
			r.defineList(i+1, end)
			return
		}
	}
}

func (r *reading) defineList(i, end int) {
	for head := true; i < end; i++ {
		head = r.at(i).op(",") || head && !r.keyword(i, "path", "default")
		r.defined[i] = head
		switch {
		case r.at(i).op("(") && r.at(i-1).is("columns"): // nested
			r.defineList(i+1, r.partner[i])
			i = r.partner[i]
		case r.at(i).op("("):
			i = r.partner[i]
		}
	}
}

// alias reads the alias behind a table, and the words that may follow.
func (r *reading) alias(i, end int, s *scope, name string, relation bool) int {
	if r.at(i).is("as") && i < end {
		i++
	}
	if i < end && r.at(i).name() && (r.at(i).kind == quoted || !reserved[r.at(i).text]) {
		name = r.at(i).text
		i++
	}
	if i < end && r.at(i).op("(") { // names of columns
		if relation {
			r.refuse(i, "columns of %s cannot be renamed by position, because only columns that the SQL names leave the primary: rename them with AS in a SELECT", quote(r.relation))
		}
		i = r.partner[i] + 1
	}
	if name != "" {
		s.add(name, relation)
	} else {
		s.reads = s.reads || relation
	}
	if i < end && r.at(i).is("tablesample") { // the arguments of TABLESAMPLE have no columns
		for i < end && !r.at(i).op("(") {
			i++
		}
		i = r.behind(i, end)
		if i < end && r.at(i).is("repeatable") {
			i = r.behind(i+1, end)
		}
	}
	return i
}

// behind is the place behind the parentheses that open at i.
func (r *reading) behind(i, end int) int {
	if !r.at(i).op("(") {
		return min(i, end)
	}
	return min(r.partner[i]+1, end)
}
