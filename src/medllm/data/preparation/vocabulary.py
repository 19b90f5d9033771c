"""Words that decide whether a capitalised word is a name, a place, or neither; public help lines."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that begin a sentence or follow a title, a greeting or a label, and are no name there.
ORDINARY = _words("""
a about accept according acne actually acute added additionally adult adv advice advise advised again age ago all allergy
allow almost alone already also although always am an ana and any anyone anything anyway appointment are around as ask
asked asking assistant at attached available baby back bad be because been before being best better between blood bless
body both bp but by call called came can cannot care case cause caused causes cell chat check checked chest child
clinic cold come complaint consult consultant consultation contact cough could currently cut dad day days dear definitely
dental did didn dietitian do doc doctor doctors does doesn doing don dose dr drugs due during each ear else emergency ent
even ever every everybody everyone evening everything evidence exam except excluded expert eye eyes family father feels
female fever few find fine first five folks follow following for forum found four free friend friends from further gave
general get gets getting girl give given gives go god going gone good google got great greetings group gp guess guy guys gyn had
has have having hba he head health healthcare heard heart hello help her here hers hey hi him his history hiv hope
hospital how however hr i icliniq if iga igg ii iii im immediately in included indian infection initially inside instead into
is isn it iv its itself jan just keep kept kidney kind kindly knee know knows lab last later least left less let like listed
little liver long look looked looking lot love ma madam made make makes male man many may maybe mbbs md me mean medical
medication medications medicine member members mental might mild mom month months more morning most mother mr mri mrs ms
mum much my name named near need needed needs never new next nice night no none normal not nothing now nurse ob obgyn of
off office often oh ok okay on once one online only or order ordered other our out over own pain parent parents past
patient patients per period perhaps person phd physician please pls plz point possible possibly post prefer pregnancy
prescribed prescribing prescription presently previously primary probably problem problems prof professor provider psych
psychiatrist psychologist put query question questions rather read really recommended recommends referred refused regarding
regards related regular report reports respected result results right rn rx safe said same saw say saying says see seem
seems seen sent several severe she should show shows sick side sign since sincerely sir sirs sister skin sleep so some
somebody someone sometimes soon sorry speak special specialist specialists stated states stay still stop stopped strange
stress student such suddenly suffering suggest suggested suggests suicide sure surely surgeon surgery symptoms tablet take
taken takes taking talk team tell tells test tested tests than thank thanks that the their them then there therefore
therapist therapists therapy these they thing things think thinking thinks third this those though thought three thru thus
thyroid till time times to today together told tomorrow tonight too took treating treatment tried try trying turn twice
two type ultrasound under understand unfortunately unless until up upon urine us use used user users usually very via
visit visited visits viewer wait wanna want wanted wants warm was watch way we week weeks welcome well went were what
whatever when whenever where whether which while white who whole whose why will wish with within without woman women won
wonder wondering work worried worst would wouldn write writer wrote xray year years yeah yes yesterday yet you young your
yours yourself monday tuesday wednesday thursday friday saturday sunday january february march april june july august
september october november december spring summer autumn winter christmas ramadan diwali easter english hindi spanish
american indian african asian european british chinese arab muslim hindu christian catholic jewish black brown caucasian
hispanic latino vegetarian vegan diabetic hypertensive pregnant anemic asthmatic bipolar allergic married single divorced
mark grace rose ray hope faith joy chase angel sunny dolly honey daisy lily heather april holly ivy rich frank max bill
thanking wishing following hoping namaste salam salaam hiya anonymous unknown none nil na nan asap covid corona
depression
after sadly concern topical concerned syndrome disease couldn hadn hasn wasn shouldn bye ran miss mister fine sent set put
scholl pepper google reckeweg phone email url device ssn license ip address account record number date
anxiety diabetes asthma cancer stroke headache diarrhea vomiting nausea
""")

# Diseases, signs and tests bear these names; a doctor who bears one is found by his title only.
EPONYMS = _words("""
addison alport alzheimer apgar asperger babinski baker barrett bartter basedow becker behcet bell bence brugada burkitt
charcot chagas coombs crohn cushing down dupuytren ebstein ehlers epstein ewing fallot fanconi foley fournier friedreich
gaucher gilbert glasgow goodpasture gram graves guillain hansen hashimoto heberden heimlich hirschsprung hodgkin
hoffmann huntington jones kaposi kawasaki kegel kernig klinefelter koch korsakoff kussmaul lou lyme marfan mallory
meniere murphy noonan osgood paget pap parkinson peyronie pott prader raynaud reiter rett reye rinne romberg rorschach
schatzki schwann sims sjogren tay tinel tourette trendelenburg turner wallenberg weber wegener wernicke widal wilms
wilson wolff zollinger
""")

# Ordinary words that are surnames behind a title or a first name, if they have a capital.
SURNAMES_TOO = _words("""
angel art best bill black brown chase daisy day faith fisher frank friend grace gray green grey guy heather holly hope
ivy joy king lake lily little long love mark max may north parent ray rich rose strange sunny west white wood young
""")

CITIES = _words("""
aberdeen abidjan abuja accra addis adelaide agra ahmedabad akron albany albuquerque aleppo alexandria algiers aligarh
allahabad amman amritsar amsterdam anaheim anchorage ankara antwerp asansol asheville athens atlanta auckland augusta
aurora austin baghdad bakersfield baku baltimore bandung bangalore bangkok barcelona bareilly basel basra beijing
beirut belfast belgaum belgrade bengaluru berlin bern bhopal bhubaneswar bilbao birmingham blackburn blackpool
bloemfontein bogota boise bolton bordeaux boston boulder bournemouth bradford brasilia bratislava brighton brisbane
bristol bronx brooklyn brussels bucharest budapest buffalo bulawayo busan cairo calcutta calgary calicut cambridge
canberra canterbury caracas cardiff carlisle casablanca cebu chandigarh charlotte chattanooga chelmsford cheltenham
chengdu chennai chesterfield chicago chittagong chongqing christchurch cincinnati cleveland coimbatore colombo columbus
copenhagen cordoba coventry cuttack dakar dallas damascus darlington davao dayton dehradun delhi denver detroit dhaka
dhanbad doha doncaster dortmund douala dresden dublin duluth dundee dunedin durban durham dusseldorf edinburgh edmonton
eindhoven eugene exeter faisalabad fargo faridabad florence frankfurt freetown fremont fresno fukuoka galway gaziabad
geelong geneva genoa ghaziabad ghent glasgow gloucester gorakhpur gothenburg grimsby guadalajara guangzhou guayaquil
gujranwala guntur gurgaon guwahati gwalior halifax hamburg hanoi harare hartford havana helsinki hiroshima hobart
honolulu houston howrah hubli huddersfield huntsville hyderabad ibadan indianapolis indore inverness ipswich islamabad
islington istanbul izmir jabalpur jacksonville jaffna jaipur jakarta jalandhar jammu jamshedpur jeddah jerusalem
jodhpur johannesburg kabul kaduna kampala kandy kano kanpur karachi kathmandu keighley kharkiv khartoum kigali kingston
kinshasa knoxville kobe kochi kolhapur kolkata kota kozhikode krakow kumasi kyiv kyoto lagos lahore lancaster lansing
laredo lausanne leeds leicester leipzig leuven lexington lille limerick lincoln lisbon liverpool ljubljana london
luanda lubbock lucerne lucknow ludhiana lusaka luton luxor lyon lyons macon madrid madurai maidstone malaga malmo
managua manchester mangalore manhattan manila maputo marrakech marseille meerut melbourne memphis mexicali miami
middlesbrough milan milwaukee minneapolis minsk modesto mogadishu mombasa monrovia monterrey montevideo montreal
moradabad moscow multan mumbai munich muscat mysore mysuru nagoya nagpur nairobi nantes naples nashik nashville nasik
newark newcastle newport noida norfolk norwich nottingham nuremberg oakland odessa omaha orlando osaka oslo ottawa
oxford palermo paris pasadena patiala patna penang peoria perth peshawar philadelphia phoenix pittsburgh plymouth
pondicherry portland porto portsmouth prague preston pretoria puducherry pune queens quito raipur rajkot raleigh ranchi
rawalpindi recife reno reykjavik richmond riga riyadh rochester rome rotterdam rouen sacramento salem salford salisbury
salzburg samarkand sapporo sarajevo savannah scottsdale seattle secunderabad seoul seville shanghai sharjah sheffield
shenzhen shillong shimla sialkot siliguri slough sofia solapur southampton southend spokane springfield srinagar
stockholm stockport stockton stoke strasbourg stuttgart sunderland surabaya surat swansea swindon sydney syracuse
tabriz tacoma taipei tallahassee tallinn tampa tampere tangier tashkent tbilisi tehran thane thessaloniki
thiruvananthapuram tijuana tirupati tokyo toledo topeka toronto toulouse trichy tripoli trivandrum tucson tulsa tunis
turin udaipur uppsala utrecht vadodara valencia vancouver varanasi venice verona vienna vijayawada vilnius
visakhapatnam visalia wakefield warangal warsaw warwick waterford wichita winnipeg wolverhampton worcester wuhan yangon
yokohama yonkers york zagreb zaragoza zurich
""")

# Countries, states of the USA, and the like: not smaller than a state, and so no identifier.
REGIONS = _words("""
afghanistan africa alabama alaska alberta algeria america argentina arizona arkansas asia assam australia austria
bahrain bangladesh belgium bengal bihar brazil britain bulgaria california cambodia cameroon canada carolina chile china
colombia colorado connecticut croatia cuba dakota delaware denmark dubai ecuador egypt england ethiopia europe finland
florida france georgia germany ghana goa greece gujarat haryana hawaii himachal holland hungary idaho illinois india
indiana indonesia iowa iran iraq ireland israel italy jamaica japan jharkhand jordan kansas karnataka kashmir kentucky
kenya kerala korea kuwait lebanon libya louisiana madhya maharashtra maine malaysia maldives maryland massachusetts
mauritius mexico michigan minnesota mississippi missouri montana morocco myanmar nebraska nepal netherlands nevada
hampshire jersey york zealand nigeria norway ohio oklahoma oman ontario oregon orissa odisha pakistan palestine
pennsylvania peru philippines poland portugal punjab qatar quebec queensland rajasthan rhode romania russia saudi scotland
senegal serbia singapore somalia spain sri sudan sweden switzerland syria taiwan tamil tanzania telangana tennessee
texas thailand tunisia turkey uae uganda uk ukraine united us usa utah uttar uttarakhand venezuela vermont victoria
vietnam virginia wales washington west wisconsin wyoming yemen zambia zimbabwe north south east northern southern eastern
western
""")

# Invented names and towns, for the surrogates; the given ones fit any sex.
GIVEN_SURROGATES = sorted(
    _words("""
Alex Sam Jamie Robin Casey Taylor Morgan Avery Riley Quinn Rowan Sage Skyler Reese Parker Emerson Finley Hayden
Kendall Logan Peyton Blake Cameron Dakota Devon Elliot Frankie Harley Jules Kai Lane Marley Nico Oakley Phoenix Remy
Shay Tatum Wren Ari Bailey Charlie Drew Ellis Gray Indigo Jody Kerry Leslie Micah Noel Ollie Pat Rory Shiloh Terry Val
Winter Yael Zion Ashton Kiran Noor Sasha
""")
)
FAMILY_SURROGATES = sorted(
    _words("""
Ashford Bellamy Carver Dalton Easton Fairley Garner Holloway Ingram Jarvis Keaton Langley Merrick Norwood Oakes
Prescott Quimby Radford Selby Thorne Underhill Vance Wexford Yardley Abbott Barlow Calder Denholm Elwood Farrow Gadsby
Hadley Ives Jessop Kirby Lockhart Marsden Nettle Orwell Penrose Ramsey Stanton Tilley Upton Varley Whitby Aldous Birch
Corwin Drummond Eldridge Fenwick Goodwin Harlow Iverson Kessler Lorimer Mayhew Nesbit Pickering Rowley Sutter Tolliver
Wakefield
""")
)
TOWN_SURROGATES = sorted(
    _words("""
Alderbrook Brackenford Cedarholm Dunmere Elmsworth Foxhollow Greyfield Hazelmoor Ironbridge Juniper Kestrelton
Larkhaven Millbrook Northwick Oakhurst Pinecrest Quarrydale Ravensford Stonebury Thistledown
""")
)

# Small words inside a name.
PARTICLES = _words("al bin da de del der di la van von")

# Public help lines, by their digits without the leading 1 of North America: they belong to nobody.
HOTLINES = {
    "8002738255": "National Suicide Prevention Lifeline, USA",
    "8007842433": "1-800-SUICIDE",
    "8664887386": "The Trevor Project",
    "8775658860": "Trans Lifeline",
    "8773306366": "Trans Lifeline, Canada",
    "8009896884": "Texas Youth Hotline",
    "8888434564": "LGBT National Hotline",
    "8007997233": "National Domestic Violence Hotline",
    "8007873224": "National Domestic Violence Hotline, TTY",
    "8663319474": "Love Is Respect, teen dating abuse",
    "8006564673": "RAINN, sexual assault",
    "8004224453": "Childhelp, child abuse",
    "8004483000": "Boys Town",
    "8007862929": "National Runaway Safeline",
    "8883737888": "National Human Trafficking Hotline",
    "8006624357": "SAMHSA, mental health and substance use",
    "8009855990": "Disaster Distress Helpline",
    "8009506264": "NAMI",
    "8009312237": "National Eating Disorders Association",
    "8003668288": "S.A.F.E. Alternatives, self-injury",
    "8005224700": "National Problem Gambling Helpline",
    "8442890879": "National Drug Helpline",
    "8009444773": "Postpartum Support International",
    "8338526262": "National Maternal Mental Health Hotline",
    "8006771116": "Eldercare Locator",
    "8002221222": "Poison Help",
    "8007848669": "1-800-QUIT-NOW",
    "8002324636": "CDC information",
    "8003321088": "FDA MedWatch",
    "8006686868": "Kids Help Phone, Canada",
    "8334564566": "Talk Suicide, Canada",
    "08001111": "Childline, UK",
    "08457909090": "Samaritans, UK, until 2015",
    "1300224636": "Beyond Blue, Australia",
    "1800551800": "Kids Helpline, Australia",
    "1850609090": "Samaritans, Ireland",
    "0800543354": "Lifeline, New Zealand",
    "18005990019": "KIRAN, India",
    "18602662345": "Vandrevala Foundation, India",
    "9152987821": "iCall, India",
    "9820466726": "AASRA, India",
    "18001801104": "National Health Portal, India",
    "0800029999": "COVID-19 hotline, South Africa",
    "27800029999": "COVID-19 hotline, South Africa",
    "27800111132": "COVID-19 hotline for clinicians, South Africa",
    "27828839920": "COVID-19 hotline for clinicians, South Africa",
    "0600123456": "COVID-19 help on WhatsApp, South Africa",
    "911123978046": "COVID-19 help line, India",
}
