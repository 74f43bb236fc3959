-- Parts are deleted with their whole by triggers: foreign keys are off in most programs. Keys of annotations are not given
-- again, whatever was deleted. Parts whose annotation was deleted without them are removed.
drop view grounded_boxes;
create table annotations_2 (
    annotation integer primary key autoincrement,
    annotation_id text not null unique,
    stream integer not null references streams,
    sequence integer not null,
    dataset text not null,
    job_id text not null,
    labels text not null,
    bucket text,
    key text,
    version text,
    etag text,
    sha256 text not null,
    format text not null,
    width integer not null,
    height integer not null,
    size_bytes integer,
    model text not null,
    model_revision text,
    model_digest text not null,
    finished_at text
);
insert into annotations_2 (annotation, annotation_id, stream, sequence, dataset, job_id, labels, bucket, key, version, etag,
    sha256, format, width, height, size_bytes, model, model_revision, model_digest, finished_at)
select annotation, annotation_id, stream, sequence, dataset, job_id, labels, bucket, key, version, etag, sha256, format,
    width, height, size_bytes, model, model_revision, model_digest, finished_at
from annotations;
drop table annotations;
alter table annotations_2 rename to annotations;
create index annotations_key on annotations (key);

create trigger annotation_parts_deleted after delete on annotations begin
    delete from results where annotation = old.annotation;
end;
create trigger result_parts_deleted after delete on results begin
    delete from entities where annotation = old.annotation and result = old.result;
end;
create trigger entity_parts_deleted after delete on entities begin
    delete from boxes where annotation = old.annotation and result = old.result and entity = old.entity;
end;
delete from results where annotation not in (select annotation from annotations);
delete from entities where not exists
    (select 1 from results r where r.annotation = entities.annotation and r.result = entities.result);
delete from boxes where not exists
    (select 1 from entities e
     where e.annotation = boxes.annotation and e.result = boxes.result and e.entity = boxes.entity);

-- Full text of answers: a text contains its prompt, which names what may not be in the picture.
drop trigger results_inserted;
drop trigger results_deleted;
drop trigger results_updated;
drop table text_search;
create virtual table text_search using fts5 (answer, content = 'results', content_rowid = 'id',
    tokenize = 'porter unicode61');
insert into text_search (text_search) values ('rebuild');
create trigger results_inserted after insert on results begin
    insert into text_search (rowid, answer) values (new.id, new.answer);
end;
create trigger results_deleted after delete on results begin
    insert into text_search (text_search, rowid, answer) values ('delete', old.id, old.answer);
end;
create trigger results_updated after update of id, answer on results begin
    insert into text_search (text_search, rowid, answer) values ('delete', old.id, old.answer);
    insert into text_search (rowid, answer) values (new.id, new.answer);
end;

create view grounded_boxes as
select b.annotation, a.annotation_id, a.dataset, a.bucket, a.key, a.width, a.height, r.task, r.text, e.phrase,
    e.score as phrase_score, b.x0, b.y0, b.x1, b.y1, b.score, b.result, b.entity, b.number,
    b.id as box_id, e.id as phrase_id, r.id as text_id
from boxes b
join entities e using (annotation, result, entity)
join results r using (annotation, result)
join annotations a using (annotation);
