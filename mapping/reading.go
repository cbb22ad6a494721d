package mapping

import (
	"fmt"
	"slices"
)

// reference is a name in a step's SQL that is, or may be, a column of the step's relation.
type reference struct {
	name   string
	offset int  // in bytes
	sure   bool // the relation's alias stands in front: the name cannot be anything else's column
	finds  bool // stands in a condition by which a DELETE or MERGE finds the target's rows
}

// refusal is a use of the relation that would see only the columns that happen to travel.
type refusal struct {
	offset  int
	message string
}

// reading finds the columns of a relation that a statement reads. Only the columns found leave the primary, so a name counts unless its
// place in the statement gives the name to something else: the target's columns (an INSERT's column list, ON CONFLICT, the left sides of
// SET), labels, types, functions, other relations. A place that is not recognized counts: the answer may be too large, never too small.
// The structure follows gram.y in the server's sources; the server itself decides what is an error.
type reading struct {
	tokens     []token
	relation   string
	partner    []int // by the index of a parenthesis: the index of the other parenthesis; len(tokens) or -1 where there is none
	references []reference
	refusals   []refusal
	defined    map[int]bool // by index: names and types of columns that a function in FROM gives
}

// scope is the relations visible from the FROM of one query, inside the scopes of the queries around.
type scope struct {
	outer *scope
	reads bool            // the relation is in the FROM
	names map[string]bool // by alias: whether the alias stands for the relation
}

// add makes a name visible; relation says whether the name stands for the relation of the step.
func (s *scope) add(name string, relation bool) {
	if s.names == nil {
		s.names = map[string]bool{}
	}
	s.names[name] = relation
	s.reads = s.reads || relation
}

// is reports whether a name stands for the relation: the innermost query with the name decides.
func (s *scope) is(name string) bool {
	for ; s != nil; s = s.outer {
		if relation, ok := s.names[name]; ok {
			return relation
		}
	}
	return false
}

// visible reports whether an unqualified name can be a column of the relation.
func (s *scope) visible() bool {
	for ; s != nil; s = s.outer {
		if s.reads {
			return true
		}
	}
	return false
}

// read reads one statement.
func read(tokens []token, relation string) *reading {
	r := &reading{tokens: tokens, relation: relation, partner: make([]int, len(tokens)), defined: map[int]bool{}}
	var open []int
	for i, t := range tokens {
		switch {
		case t.op("("):
			r.partner[i] = len(tokens)
			open = append(open, i)
		case t.op(")"):
			r.partner[i] = -1
			if len(open) > 0 {
				last := open[len(open)-1]
				r.partner[last], r.partner[i] = i, last
				open = open[:len(open)-1]
			}
		}
		if len(open) > maxDepth {
			r.refuse(i, "parentheses are nested deeper than %d", maxDepth)
			return r
		}
	}
	r.query(0, len(tokens), nil)
	return r
}

// maxDepth bounds the work on the text of a hostile tenant.
const maxDepth = 200

// at is the token at the index, or an empty token.
func (r *reading) at(i int) token {
	if i < 0 || i >= len(r.tokens) {
		return token{kind: operator}
	}
	return r.tokens[i]
}

// keyword reports whether a token is one of the keywords: not behind a dot or AS, where any word is a name.
func (r *reading) keyword(i int, words ...string) bool {
	t := r.at(i)
	return t.kind == word && slices.Contains(words, t.text) && !r.at(i-1).op(".") && !r.at(i-1).is("as")
}

// find is the index of the first of the keywords in [i, end), outside of parentheses and CASE; end where there is none.
func (r *reading) find(i, end int, words ...string) int {
	for cases := 0; i < end; i++ {
		switch {
		case r.at(i).op("("):
			i = r.partner[i]
		case r.keyword(i, "case"):
			cases++
		case r.keyword(i, "end") && cases > 0:
			cases--
		case cases == 0 && r.keyword(i, words...):
			return i
		}
	}
	return end
}

// isQuery reports whether parentheses with the content [i, end) hold a query, and not an expression or a join.
func (r *reading) isQuery(i, end int) bool {
	for i < end {
		switch next := r.at(i + 1); { // some of the words may be columns
		case r.keyword(i, "select", "with", "table"):
			return true
		case r.keyword(i, "values"):
			return next.op("(")
		case r.keyword(i, "insert", "merge"):
			return next.is("into")
		case r.keyword(i, "delete"):
			return next.is("from")
		case r.keyword(i, "update"):
			return next.name() && r.find(i, end, "set") < end
		case !r.at(i).op("("):
			return false
		}
		if behind := r.partner[i] + 1; behind < end && !r.keyword(behind, "union", "intersect", "except", "order", "limit", "offset", "fetch", "for") {
			return false
		}
		i, end = i+1, min(end, r.partner[i])
	}
	return false
}

// query reads a statement or subquery in [i, end).
func (r *reading) query(i, end int, outer *scope) {
	if r.keyword(i, "with") {
		i = r.with(i+1, end, outer)
	}
	switch {
	case r.keyword(i, "insert") && r.at(i+1).is("into"):
		r.insert(i+2, end, outer)
	case r.keyword(i, "update"):
		r.update(i+1, end, outer)
	case r.keyword(i, "delete") && r.at(i+1).is("from"):
		r.deletion(i+2, end, outer)
	case r.keyword(i, "merge") && r.at(i+1).is("into"):
		r.merge(i+2, end, outer)
	default:
		r.selection(i, end, outer)
	}
}

// with reads the queries of a WITH and gives the place of the statement behind the queries. The queries see everything that the whole
// statement sees, but not the FROM of the statement.
func (r *reading) with(i, end int, outer *scope) int {
	if r.at(i).is("recursive") {
		i++
	}
	for i < end {
		for i++; i < end && !r.at(i).is("as"); i++ { // the name, and perhaps a list of columns
		}
		for i < end && !r.at(i).op("(") {
			i++
		}
		if i >= end {
			return end
		}
		r.query(i+1, min(end, r.partner[i]), outer)
		// SEARCH and CYCLE name the query's own columns.
		for i = r.partner[i] + 1; i < end && !r.at(i).op(",") && !r.isQuery(i, end); i++ {
		}
		if !r.at(i).op(",") {
			return i
		}
		i++
	}
	return end
}

// selection reads SELECT, VALUES or TABLE, and combinations by UNION and the like.
func (r *reading) selection(i, end int, outer *scope) {
	for i < end {
		arm := r.find(i, end, "union", "intersect", "except")
		r.arm(i, arm, outer)
		if i = arm + 1; r.keyword(i, "all", "distinct") {
			i++
		}
	}
}

// behindFrom are the clauses that may follow FROM and its tables.
var behindFrom = []string{"where", "group", "having", "window", "order", "limit", "offset", "fetch", "for", "returning", "set", "when"}

// arm reads one SELECT, VALUES, TABLE or query in parentheses.
func (r *reading) arm(i, end int, outer *scope) {
	switch {
	case r.at(i).op("(") && r.isQuery(i+1, r.partner[i]):
		r.query(i+1, min(end, r.partner[i]), outer)
		r.walk(r.partner[i]+1, end, outer, nil)
		return
	case r.keyword(i, "table"):
		if r.at(i + 1).is("only") {
			i++
		}
		if r.at(i+1).name() && r.at(i+1).text == r.relation && !r.at(i+2).op(".") {
			r.refuse(i, "TABLE %s would return only the columns that leave the primary: name the columns in a SELECT", quote(r.relation))
		}
		return
	case !r.keyword(i, "select", "values"): // not understood: every name in the text may be the relation's
		for ; i < end; i++ {
			if t := r.at(i); t.name() {
				r.references = append(r.references, reference{name: t.text, offset: t.offset})
			}
		}
		return
	}
	s := &scope{outer: outer}
	from := r.fromClause(i, end)
	rest := from
	if from < end {
		rest = r.find(from, end, behindFrom...)
		r.tables(from+1, rest, s)
	}
	labels := r.walk(i+1, from, s, nil)
	order := r.find(rest, end, "order")
	sorted := r.find(order, end, "limit", "offset", "fetch", "for")
	r.walk(rest, order, s, nil)
	r.walk(order, sorted, s, labels)
	r.walk(sorted, end, s, nil)
}

// fromClause is the place of a SELECT's FROM, or end. The FROM of IS DISTINCT FROM is none.
func (r *reading) fromClause(i, end int) int {
	for {
		i = r.find(i, end, "from")
		if i >= end || !r.at(i-1).is("distinct") {
			return i
		}
		i++
	}
}

// target skips a written table, with its alias, and notes the statement's name of the table.
func (r *reading) target(i int, s *scope) int {
	if r.at(i).is("only") {
		i++
	}
	for r.at(i + 1).op(".") {
		i += 2
	}
	name := r.at(i).text
	i++
	if r.at(i).op("*") {
		i++
	}
	if r.at(i).is("as") {
		i++
	} else if !r.at(i).name() || r.keyword(i, "set", "using", "default", "values", "overriding", "select", "with", "table", "where", "returning") {
		s.add(name, false)
		return i
	}
	s.add(r.at(i).text, false)
	return i + 1
}

// insert reads behind INSERT INTO. The words behind the query name the target's columns only.
func (r *reading) insert(i, end int, outer *scope) {
	i = r.target(i, &scope{})
	if r.at(i).op("(") && !r.isQuery(i+1, r.partner[i]) {
		i = r.partner[i] + 1
	}
	if r.keyword(i, "overriding") {
		i += 3
	}
	own := min(r.conflict(i, end), r.find(i, end, "returning"))
	if !r.keyword(i, "default") {
		r.query(i, own, outer)
	}
	r.walk(own, end, &scope{outer: outer}, nil)
}

// conflict is the place of an INSERT's ON CONFLICT, or end. ON CONFLICT has a DO, which is reserved; the ON of a join has none.
func (r *reading) conflict(i, end int) int {
	do := r.find(i, end, "do")
	if do == end {
		return end
	}
	for k := do - 1; k > i; k-- {
		if r.keyword(k, "on") && r.at(k+1).is("conflict") {
			return k
		}
	}
	return end
}

// update reads behind UPDATE.
func (r *reading) update(i, end int, outer *scope) {
	s := &scope{outer: outer}
	set := r.find(r.target(i, s), end, "set")
	rest := r.find(set, end, "from", "where", "returning")
	for rest < end && r.at(rest).is("from") && r.at(rest-1).is("distinct") {
		rest = r.find(rest+1, end, "from", "where", "returning")
	}
	behind := rest
	if rest < end && r.at(rest).is("from") {
		behind = r.find(rest, end, "where", "returning")
		r.tables(rest+1, behind, s)
	}
	r.assignments(set+1, rest, s)
	r.walk(behind, end, s, nil)
}

// assignments reads the list of a SET: the left sides are the target's columns.
func (r *reading) assignments(i, end int, s *scope) {
	for i < end {
		for ; i < end && !r.at(i).op("="); i++ {
			if r.at(i).op("[") { // a subscript is an expression
				behind := r.bracket(i, end)
				r.walk(i+1, behind, s, nil)
				i = behind
			}
		}
		right := i + 1
		for i = right; i < end && !r.at(i).op(","); i++ {
			switch {
			case r.at(i).op("("):
				i = r.partner[i]
			case r.at(i).op("["):
				i = r.bracket(i, end)
			}
		}
		r.walk(right, min(i, end), s, nil)
		i++
	}
}

// bracket is the place of the bracket that closes the bracket at i.
func (r *reading) bracket(i, end int) int {
	for depth := 0; i < end; i++ {
		switch t := r.at(i); {
		case t.op("["):
			depth++
		case t.op("]"):
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return end
}

// deletion reads behind DELETE FROM.
func (r *reading) deletion(i, end int, outer *scope) {
	s := &scope{outer: outer}
	i = r.target(i, s)
	rest := r.find(i, end, "where", "returning")
	first, returning := len(r.references), r.find(rest, end, "returning")
	if r.keyword(i, "using") {
		r.tables(i+1, rest, s)
	}
	r.walk(rest, returning, s, nil)
	r.finding(first)
	r.walk(returning, end, s, nil)
}

// finding notes that the references from the index first on find the target's rows.
func (r *reading) finding(first int) {
	for i := range r.references[first:] {
		r.references[first+i].finds = true
	}
}

// merge reads behind MERGE INTO.
func (r *reading) merge(i, end int, outer *scope) {
	s := &scope{outer: outer}
	i = r.target(i, s)
	when := r.find(i, end, "when", "returning")
	on := r.find(i, when, "on")
	for next := on; next < when; next = r.find(next+1, when, "on") { // earlier ONs are of joins
		on = next
	}
	r.tables(i+1, on, s)
	first := len(r.references)
	r.walk(on, when, s, nil)
	r.finding(first)
	for when < end {
		next := r.find(when+1, end, "when", "returning")
		then := r.find(when+1, next, "then")
		for when++; r.keyword(when, "not", "matched", "by", "source", "target") && when < then; when++ {
		}
		r.walk(when, then, s, nil)
		switch {
		case r.at(then + 1).is("update"):
			r.assignments(then+3, next, s)
		case r.at(then+1).is("insert") && r.at(then+2).op("("):
			r.walk(r.partner[then+2]+1, next, s, nil)
		default: // DELETE, INSERT VALUES, DO NOTHING
			r.walk(then+2, next, s, nil)
		}
		when = next
	}
}

// refuse notes a use that would see only the columns that leave the primary, at the token.
func (r *reading) refuse(i int, format string, args ...any) {
	r.refusals = append(r.refusals, refusal{r.at(i).offset, fmt.Sprintf(format, args...)})
}
